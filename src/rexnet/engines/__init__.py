"""Engines that run a network, and the files that hold one as a graph."""
