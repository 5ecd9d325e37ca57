"""Two instructions of TorchServe's that no setting changes, and no release will.

A queue that waits for nobody: a worker that is free takes the first request and then waits
`maxBatchDelay` milliseconds, one at least, for others to join it; one client at a time pays that
for every request. `Model.pollBatch` takes the others here only if they are queued already. A
batch is then what came in while the worker was busy, be it one request or thirty.

No gRPC: TorchServe starts two more servers, on a Netty of 2022 of their own, for whoever can
reach loopback. `ModelServer.startAndWait` leaves them out here, and the image has none of their
code.

Source: TorchServe 0.12.0 (Apache License 2.0), the last release, told by the classes' SHA-256.
"""

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Patch(NamedTuple):
    """One place in one class."""

    file: str
    """Of the class, in the jar."""
    sha256: str
    """Of the file as it was released."""
    at: int
    """Bytes from its start."""
    before: bytes
    after: bytes


NO_WAIT = Patch(
    "org/pytorch/serve/wlm/Model.class",
    "7c5523f1fe77fe79aa32665469e17725e70518692abcf4987989ef72f10d4cff",
    17173,
    # `lload 6`, the milliseconds left that LinkedBlockingDeque.poll is told: `lconst_0`, `nop`.
    b"\x16\x06",
    b"\x09\x00",
)
NO_GRPC = Patch(
    "org/pytorch/serve/ModelServer.class",
    "779d0df5bfc17c5ad09ac46d63d9a017d48a4cd68c1b7464de914d3cb40190b9",
    17979,
    # `invokevirtual startGRPCServers` on what is on the stack: `pop`, `nop`, `nop`.
    b"\xb6\x00\xb4",
    b"\x57\x00\x00",
)


class UnsupportedTorchServeError(Exception):
    """A class is not the one that is known here."""


def write(jar: Path, classes: Path, patches: Iterable[Patch]) -> Path:
    """Write changed classes into a folder that goes before the jar on Java's class path.

    Returns the folder; raises OtherTorchServe.
    """
    with zipfile.ZipFile(jar) as contents:
        for patch in patches:
            target = classes / patch.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_changed(jar, contents.read(patch.file), patch))
    return classes


def _changed(jar: Path, code: bytes, patch: Patch) -> bytes:
    found, end = hashlib.sha256(code).hexdigest(), patch.at + len(patch.before)
    if found != patch.sha256 or code[patch.at : end] != patch.before:
        raise UnsupportedTorchServeError(
            f"{jar} is not that of TorchServe 0.12.0: its {patch.file} is {found}"
        )
    return code[: patch.at] + patch.after + code[end:]
