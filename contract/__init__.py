"""Checks of any image against Vertex AI's container contract, version 1.0.0.

Source: "Custom container requirements for inference", Vertex AI documentation. The checks are
independent of the image's content: they start it in Docker and send HTTP requests to it.
"""
