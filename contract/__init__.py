"""Checks of any image against Vertex AI's container contract.

Source: "Custom container requirements for inference", Vertex AI documentation, version 1.0.0 of the
contract. The suite knows nothing of what is in the image: it starts the image in Docker as Vertex AI
does, and sends HTTP requests to it.
"""
