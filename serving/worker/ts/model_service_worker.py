"""The worker: TorchServe's Java starts this file in place of the worker of the package `ts`.

Java finds it because `serving/torchserve.py` sets this folder's parent as the server's home, which Java
also puts on Python's path.
"""

from serving_worker.launcher import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main()
