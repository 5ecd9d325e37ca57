"""Tests of kubernetes/ without a cluster: schemas, the pod in Docker, and deployments to a fake cluster."""
