"""Vertex AI's container contract as a suite that any image can be put to.

Source: "Custom container requirements for inference", Vertex AI documentation, version
1.0.0 of the contract. It knows nothing of what is in the image: it starts it in Docker as
Vertex would, and speaks HTTP to it.
"""
