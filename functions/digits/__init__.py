"""The container's model and core as a function: the same requests, the same answers."""
