"""Support for stock .mar archives, as Google's prebuilt PyTorch images serve them.

`inspect.py` and the modules that it calls report what will work (`make migrate MAR=model.mar`);
`manifest.py` adapts an archive, and `stock_handler.py` serves it. See docs/migration.md.
"""
