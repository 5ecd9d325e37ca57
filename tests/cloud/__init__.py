"""Tests of deploy, emulator and functions with the real gcloud and SDK, against the emulator."""
