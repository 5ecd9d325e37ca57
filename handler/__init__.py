"""The code that runs inside a TorchServe worker, between its sockets and the model.

`vertex_handler` is the archive's entry and the only module here that knows TorchServe. The other modules also
run in tests and in Cloud Functions.
"""
