"""Benchmarks: programs that start the servers which they measure, side by side, and write a table."""
