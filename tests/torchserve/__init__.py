"""A real TorchServe, started by the fixtures."""
