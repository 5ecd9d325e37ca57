"""Tests of a real TorchServe, which the fixtures start."""
