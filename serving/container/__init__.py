"""The programs of the image: what configures, starts, watches and drains nginx and TorchServe."""
