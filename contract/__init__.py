"""Checks of any image against Vertex AI's container contract, version 1.0.0.

Source: "Custom container requirements for inference", Vertex AI documentation. The suite knows
nothing of what is in the image: it starts the image in Docker and sends HTTP requests to it.
"""
