"""The listening socket of the direct path, which nginx connects to and all workers share.

TorchServe's Java closes the descriptors that its workers would inherit. So a worker connects to a second
socket and gets the listening one from there.
"""

import socket
import threading
from pathlib import Path

from serving.logs import Log

BACKLOG = 1024
"""Connections that may wait for a worker; more than nginx opens, so that the probe always finds room."""


class Listener:
    """The listening socket; it stays open while workers come and go, and requests wait in it."""

    def __init__(self, folder: Path, log: Log) -> None:
        """Open the sockets in a folder, and pass the first to each worker that connects to the second."""
        self.path, self.handout_path = folder / "workers.sock", folder / "listener.sock"
        self._log = log
        self._socket = _listen(self.path)
        self._handout = _listen(self.handout_path)
        threading.Thread(target=self._hand_out, daemon=True).start()

    def close(self) -> None:
        """Let the requests that wait fail at once, when no worker has the socket any more."""
        self._socket.close()

    def _hand_out(self) -> None:
        while True:
            connection, _ = self._handout.accept()
            with connection:
                try:
                    socket.send_fds(connection, [b"1"], [self._socket.fileno()])
                except OSError as error:  # the worker has ended meanwhile
                    message = f"a worker did not take the listening socket: {error}"
                    self._log.write("WARNING", message)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener
