"""Networks behind HTTP: needs the packages of `pip install 'rexnet[serve]'`."""
