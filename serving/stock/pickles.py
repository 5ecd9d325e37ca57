"""Find what torch refuses in weights that torch.save wrote. The pickles are scanned, never loaded."""

import pickletools
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

MAX_PICKLE_BYTES = 64 << 20
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The start of the files that torch.save wrote before torch 1.6."""
LEGACY_PICKLES = 5
"""A magic number, a version, the sizes of types, the object and the keys of its storages."""
TORCH_MODULES = ("torch", "torch._tensor", "torch._utils", "torch.storage", "torch.serialization")
ALLOWED = {
    *(("collections", name) for name in ("OrderedDict", "Counter")),
    ("torch.nn.parameter", "Parameter"),
    ("_codecs", "encode"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("bytearray", "set")),
    *((module, "complex") for module in ("builtins", "__builtin__")),
}
"""What torch.load restores with weights_only, beside what the TORCH_MODULES contain."""


class Weights(NamedTuple):
    """A file of torch.save or TorchScript."""

    is_torchscript: bool
    refused: tuple[str, ...]
    """The classes and functions that torch.load restores only without weights_only."""


def read_weights(file: Path) -> Weights | None:
    """Return what a file contains; None if torch did not write it, or it is damaged."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as contents:
                return _read_zip(contents)
        with file.open("rb") as stream:
            if stream.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC:
                return None
            stream.seek(0)
            return Weights(False, _find_refused(stream, LEGACY_PICKLES))
    except (OSError, ValueError, IndexError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return None


def _read_zip(contents: zipfile.ZipFile) -> Weights | None:
    names = contents.namelist()
    for name in names:
        folder, _, file = name.rpartition("/")
        if file == "data.pkl" and folder.count("/") == 0 and folder:
            if f"{folder}/constants.pkl" in names:
                return Weights(True, ())
            with contents.open(name) as stream:
                data = stream.read(MAX_PICKLE_BYTES)
            return Weights(False, _find_refused(BytesIO(data), 1))
    return None


def _find_refused(stream: IO[bytes], count: int) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for _ in range(count):
        for module, name in _list_globals(stream):
            is_torch = module in TORCH_MODULES and not name.startswith("nn.")
            if not is_torch and (module, name) not in ALLOWED:
                found[f"{module}.{name}"] = None
    return tuple(found)


def _list_globals(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the module and name of each class and function that a pickle refers to."""
    strings: list[str] = []
    memo: dict[object, str] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield strings[-2], strings[-1]
        elif isinstance(argument, str):
            strings.append(argument)
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = strings[-1] if strings else ""
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            strings.append(memo.get(argument, ""))
