"""The parts of the report page, and its templates."""
