"""Measure our workers on a GPU beside the bare loop and other servers, without Docker, Java, nginx and wrk."""
