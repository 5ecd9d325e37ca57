"""The core, with neither TorchServe nor Docker."""
