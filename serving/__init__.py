"""From an archive to a running TorchServe: the .mar, its server's settings, Java, start and stop.

The same modules run TorchServe on a laptop (`python -m serving.local`) and, under
serving/container/entrypoint.py, in the image.
"""
