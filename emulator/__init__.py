"""Google's control plane, stood in for, so that the real gcloud and the real SDK can be driven offline.

It knows nothing of deploy/: they meet over HTTP alone. README.md says what it proves and what not.
"""
