"""The entrypoint of the image: configures, starts, supervises and stops nginx and TorchServe."""
