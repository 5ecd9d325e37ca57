"""A model that fails in every way on request."""
