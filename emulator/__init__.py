"""An emulator of Google's control plane, to run the real gcloud and the real SDK without an account.

It imports nothing of deploy/ and meets it over HTTP only. README.md describes what it proves and its limits.
"""
