"""The model that a user replaces with their own: network, weights, and the task made of them.

Everything in this folder travels in the archive, but for `train/`, which stays at home.
"""
