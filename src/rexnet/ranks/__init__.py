"""Ranks of matrices and of the layers of a network."""
