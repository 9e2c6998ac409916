"""Training: the one loop, its parts, and classification as its first user."""
