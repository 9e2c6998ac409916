"""Experiments of the paper: matrix ranks of layer outputs in random and real networks."""
