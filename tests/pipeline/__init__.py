"""Tests of the pipeline, run locally and against the emulator."""
