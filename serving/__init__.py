"""Build a .mar archive, and run TorchServe with it.

`python -m serving.local` runs TorchServe on this machine; `serving/container/entrypoint.py` does so
in the image.
"""
