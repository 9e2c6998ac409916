"""Training: the one loop, what it needs, and classification as its first user."""
