"""Deployment of trained networks: prediction, export, quantisation and benchmarks."""
