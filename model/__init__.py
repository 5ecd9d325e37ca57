"""The example model, to be replaced by yours: network, weights, and the task that serves them.

The folder is packed into the archive, except for `train/`, `trained/` and `export/`.
"""
