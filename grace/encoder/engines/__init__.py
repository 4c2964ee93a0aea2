"""Ways to write rationales."""
