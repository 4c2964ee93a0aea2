"""The figures: their marks (rows of the csv), the kinds of figures, and how they look."""
