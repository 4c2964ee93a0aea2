"""The kinds of figures: each a module with `marks`, what is shown, as rows, and `draw`, which draws these rows."""
