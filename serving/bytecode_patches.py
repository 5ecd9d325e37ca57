"""An instruction of TorchServe's Java that is changed before it starts.

NO_GRPC: TorchServe starts two gRPC servers that any process with access to loopback can use, on
a copy of Netty of 2022 that is their own. With the patch, `ModelServer.startAndWait` does not
start them. The image does not contain their code.

Source: TorchServe 0.12.0 (Apache License 2.0), the last release; the class is identified by its
SHA-256. Reasons, measurements and the switch that turns the patches off: docs/decisions.md.
"""

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from serving.errors import ServingError


class Patch(NamedTuple):
    """A replacement of bytes in one class file."""

    class_file: str
    """The path in the jar."""
    sha256: str
    """Of the released class file."""
    offset: int
    before: bytes
    after: bytes


NO_GRPC = Patch(
    "org/pytorch/serve/ModelServer.class",
    "779d0df5bfc17c5ad09ac46d63d9a017d48a4cd68c1b7464de914d3cb40190b9",
    17979,
    # `invokevirtual startGRPCServers` on the object on the stack: `pop`, `nop`, `nop`.
    b"\xb6\x00\xb4",
    b"\x57\x00\x00",
)


class UnsupportedTorchServeError(ServingError):
    """A class file is not that of TorchServe 0.12.0."""


def write_classes(jar: Path, target: Path, patches: Iterable[Patch]) -> None:
    """Write the patched classes into a folder that precedes the jar on Java's class path.

    Raises UnsupportedTorchServeError.
    """
    with zipfile.ZipFile(jar) as contents:
        for patch in patches:
            file = target / patch.class_file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(apply_patch(patch, contents.read(patch.class_file), jar))


def apply_patch(patch: Patch, code: bytes, jar: Path) -> bytes:
    """Return the patched class; raise UnsupportedTorchServeError."""
    sha256, end = hashlib.sha256(code).hexdigest(), patch.offset + len(patch.before)
    if sha256 != patch.sha256 or code[patch.offset : end] != patch.before:
        raise UnsupportedTorchServeError(
            f"{jar} is not that of TorchServe 0.12.0: {patch.class_file} has SHA-256 {sha256}; "
            "install torchserve==0.12.0 or set TORCHSERVE_PATCHES=off"
        )
    return code[: patch.offset] + patch.after + code[end:]


def has_grpc(jar: Path) -> bool:
    """Return whether a jar contains gRPC's classes, without which its servers cannot start."""
    with zipfile.ZipFile(jar) as contents:
        return any(name.startswith("io/grpc/") for name in contents.namelist())
