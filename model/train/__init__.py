"""From examples to weights: `python -m model.train`. Not packed into the archive."""
