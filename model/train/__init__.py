"""Train the network: `python -m model.train`. Not packed into the archive."""
