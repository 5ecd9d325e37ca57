"""A page to try a model in a browser: one static file, and a server on loopback that forwards its requests."""
