"""The smallest function: says what it is told."""
