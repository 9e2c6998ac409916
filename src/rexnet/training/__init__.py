"""Training: the loop, its parts, and classification."""
