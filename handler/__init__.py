"""What runs inside a TorchServe worker: envelope in, batch through the task, envelope out.

`vertex_handler` is the archive's entry and the only file here that knows TorchServe; the
rest is pure, so that tests and other front ends call it as it is.
"""
