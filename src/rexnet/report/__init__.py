"""`rexnet report`: training runs as one HTML page."""
