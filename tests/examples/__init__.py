"""Tests of each folder in model/, whichever there are."""
