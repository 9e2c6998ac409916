"""What happened in training runs, as one HTML page: runs and their predictions in, a file out."""
