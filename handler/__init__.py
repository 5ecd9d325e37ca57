"""The code that runs inside a TorchServe worker, between its sockets and the model.

`vertex_handler` is the archive's entry and the only module that depends on TorchServe. The other modules also run in
Cloud Functions and in tests.
"""
