"""From DATA, the string that a user types, to labelled images."""
