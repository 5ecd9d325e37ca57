"""Other servers of the same archive, each set up as its own documentation advises."""
