"""Golden values and what computes them."""
