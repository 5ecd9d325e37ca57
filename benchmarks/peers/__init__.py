"""Other servers of the same archive, each configured as its documentation recommends."""

LOADED = "the model is loaded"
"""The line that each of their processes writes once it has loaded the model."""
