"""Trained networks behind HTTP: a standard protocol, a plain one, and a web page."""
