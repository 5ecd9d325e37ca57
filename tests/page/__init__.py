"""Tests of the page for trying a model, in Chromium."""
