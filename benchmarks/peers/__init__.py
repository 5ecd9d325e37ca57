"""Other servers of the same archive, each configured as its documentation recommends."""
