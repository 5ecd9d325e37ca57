"""Measure our workers on a GPU beside the bare limit and other servers, without Docker, Java, nginx and wrk."""
