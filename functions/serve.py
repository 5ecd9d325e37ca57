"""Run a function locally with functions-framework, in the foreground."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from deploy.errors import UserError
from functions.packaging import assemble
from functions.registry import Function
from project.environment import InstallError, find_python
from storage.lazy import URI_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHUTDOWN_TIMEOUT_S = 10


def serve(function: Function, host: str, port: int, uri: str) -> None:
    """Run a function at http://HOST:PORT until Ctrl-C, with the packages of its model.

    Raises UserError if it cannot serve or ends by itself.
    """
    if uri and "://" not in uri and not Path(uri).is_dir():
        raise UserError(
            f"the folder {uri} does not exist", "give STORAGE= a folder or gs://BUCKET/FOLDER"
        )
    _check_port(host, port)
    python = _find_python(function)
    model = f" with the model of {uri}" if uri else ""
    print(f"Serving {function.name}{model} until Ctrl-C. In another terminal:\n")
    print(f"  curl {function.curl_options} http://{host}:{port}/\n", flush=True)
    # The folder that would be deployed: a file that packaging misses is missing here, too.
    folder = assemble(function).resolve()
    command = [
        *(python, "-m", "functions_framework"),
        *(f"--source={folder / 'main.py'}", f"--target={function.entry_point}"),
        *(f"--host={host}", f"--port={port}"),
    ]
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    # In a session of its own: gunicorn's workers can hang for half a minute if they receive Ctrl-C and, at the
    # same time, the signal by which their master stops them.
    environ = os.environ | ({URI_VARIABLE: uri} if uri else {})
    server = subprocess.Popen(command, cwd=folder, env=environ, start_new_session=True)
    try:
        code = server.wait()
        ended = f"functions-framework ended with code {code}"
        raise UserError(ended, "its output above has the reason")
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        server.terminate()
        try:
            server.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _find_python(function: Function) -> str:
    if function.model is None:
        return sys.executable
    try:
        return str(find_python(function.model))
    except InstallError as error:
        raise UserError(str(error), f"fix requirements.txt in {function.model.path}") from None


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", error)
            hint = "choose another with PORT="
            raise UserError(f"cannot listen on port {port} of {host}: {reason}", hint) from None
