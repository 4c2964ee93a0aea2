"""The parts of the report page: what is read from a study's folder, and how it is shown."""
