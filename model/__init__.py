"""The model that a user replaces with their own: network, weights, and the task made of them.

The folder goes into the archive, except for `train/`, `trained/` and `export/`.
"""
