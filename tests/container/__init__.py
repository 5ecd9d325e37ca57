"""The real image in a real Docker engine."""
