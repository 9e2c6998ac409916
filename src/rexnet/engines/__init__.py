"""Engines that run a network, and the files that contain one as a graph."""
