"""Choose the backend of the network: `python -m model.export`. Not packed into the archive."""
