"""A stock archive in the manner of TorchServe's MNIST tutorial: none of this project in it."""
