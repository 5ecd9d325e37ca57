"""TorchServe as Google's samples for custom containers set it up."""
