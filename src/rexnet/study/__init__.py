"""What the paper argues with: the matrix rank of what layers put out, of random networks and of real ones."""
