"""A stock archive like that of TorchServe's MNIST tutorial, independent of this project."""
