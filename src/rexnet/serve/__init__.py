"""The HTTP server of `rexnet serve`: needs the packages of `pip install 'rexnet[serve]'`."""
