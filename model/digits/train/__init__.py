"""Train the network: `make model`. Not packed into the archive."""
