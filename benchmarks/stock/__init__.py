"""TorchServe in the configuration of Google's samples for custom containers."""
