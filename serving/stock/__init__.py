"""Moving here with a stock .mar, as Google's prebuilt PyTorch images serve it.

`make migrate MAR=model.mar` says what will work. How such an archive is served is in
`serving/stock/manifest.py` and `serving/stock/stock_handler.py`.
"""
