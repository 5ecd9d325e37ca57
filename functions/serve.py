"""Run a function here with functions-framework, in the foreground."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from deploy.errors import UserError
from functions import packaging
from functions.registry import Function
from storage.lazy import URI_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_S = 10
"""How long a request under way may take when it is told to end."""


def serve(function: Function, host: str, port: int, uri: str) -> None:
    """Run a function at http://HOST:PORT until Ctrl-C; raise Stop where it ends by itself."""
    _see_that_it_is_free(host, port)
    print(f"{function.name}{f' with the model of {uri}' if uri else ''}, until Ctrl-C.", end=" ")
    print(
        f"From another terminal:\n\n  curl {function.example()} http://{host}:{port}/\n", flush=True
    )
    # From the folder that would be deployed: what is not laid out there is not found here either.
    folder = packaging.lay_out(function).resolve()
    command = [
        str(Path(sys.executable).with_name("functions-framework")),
        f"--source={folder / 'main.py'}",
        f"--target={function.name}",
        f"--host={host}",
        f"--port={port}",
    ]
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    # In a session of its own: gunicorn's workers may hang for half a minute when Ctrl-C reaches
    # them and their master, which then tells them the same, at once.
    environ = os.environ | ({URI_VARIABLE: uri} if uri else {})
    server = subprocess.Popen(command, cwd=folder, env=environ, start_new_session=True)
    try:
        raise UserError(f"functions-framework ended with code {server.wait()}", "as it says above")
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _see_that_it_is_free(host: str, port: int) -> None:
    with socket.socket() as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} of {host}: {error.strerror}", "PORT=…") from None
