"""Search over the channels of every block under limits on cost (paper section 4)."""
