"""Moving here with a stock .mar, as Google's prebuilt PyTorch images serve it.

`make migrate MAR=model.mar` says what will work. A container that finds such an archive in
AIP_STORAGE_URI serves it through `stock_handler.py`, which keeps the archive's own handler
and TorchServe's JSON envelope, and puts clear errors around them.
"""
