"""Measurements: each a program that starts what it measures, side by side, and writes a table."""
