"""Training methods that the paper does not have, and a measurement of GRACE's gradient."""
