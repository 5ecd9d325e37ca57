"""The container: its entrypoint, its settings, nginx before TorchServe; stages/ builds the image."""
