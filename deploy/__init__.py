"""Deploys the image to Vertex AI, and deletes everything again: `python -m deploy --help`.

`plan` decides the next step in pure code. Only the package `gcp` and `buckets` call Google. Each command
fetches the state, takes one step and fetches the state again: after an interruption it can be run again.
"""
