"""Tests of the contract checks: each check fails for a server that violates its requirement."""
