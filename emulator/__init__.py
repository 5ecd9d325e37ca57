"""An emulator of Google's control plane, to run the real gcloud and the real SDK without an account.

It does not import deploy/: the two communicate over HTTP. README.md describes what it proves and its limits.
"""
