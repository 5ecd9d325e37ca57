"""What happened when a stock archive was served once, and what both ways to serve it share."""

import dataclasses
import json
import mimetypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serving import selection
from serving.errors import ServingError

ROOT = Path(__file__).resolve().parents[2]
LOAD_TIMEOUT_S = 600
ROUTE = f"/predictions/{selection.MODEL_NAME}"
NETWORK_ERROR = re.compile(
    r"name resolution|Name or service not known|Network is unreachable|NameResolutionError|gaierror"
    r"|couldn't connect to|Max retries exceeded|offline mode|LocalEntryNotFoundError|URLError|huggingface\.co"
)


class TrialError(ServingError):
    """An archive could not be tried; it may work."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened when an archive was served."""

    startup_s: float | None = None
    """None: it was never ready."""
    error: str = ""
    """Why it was not ready."""
    response: dict[str, Any] | None = None
    """The response, see `request.send`; None: no request was sent."""
    log: str = ""
    """The log messages of the workers."""
    place: str = ""
    """Where it was served, for messages."""
    network: bool = True
    """Whether it had a network."""


def find_content_type(file: Path) -> str:
    """Return the content type of a request: JSON, unless the file has another content and a known suffix."""
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return mimetypes.guess_type(file.name)[0] or "application/json"
    return "application/json"


def find_cause(outcome: Outcome, names: Iterable[str]) -> tuple[str, str]:
    """Return the crash or the last exception in the log and FILE:LINE of the archive that caused it; "" for none."""
    exception = location = ""
    if crash := re.search(r"(?s)(Fatal Python error: [^\n]+)(.*)", outcome.log):
        exception = crash[1]
        for path, line in re.findall(r'File "(.+)", line (\d+) in ', crash[2]):
            if name := _find_name(path, names):  # the first: the most recent call
                return exception, f"{name}:{line}"
    for block in outcome.log.split("Traceback (most recent call last):")[1:]:
        for line in block.splitlines():
            if frame := re.match(r'\s+File "(.+)", line (\d+)', line):
                if name := _find_name(frame[1], names):
                    location = f"{name}:{frame[2]}"
            elif match := re.match(r"((?:\w+\.)*\w+)(?::|$)", line):
                exception = line.strip() if match[1] != "During" else exception
                break
    return exception, location


def _find_name(path: str, names: Iterable[str]) -> str:
    """Return the longest name of a file in the archive that a path ends with."""
    if "site-packages/" in path or "/lib/python3" in path:
        return ""
    found = [name for name in names if f"/{path}".endswith(f"/{name}")]
    return max(found, key=len, default="")


def name_in_storage(archive: Path) -> str:
    """Return the name of an archive in the storage; its suffix is that of its format."""
    is_tar = archive.name.lower().endswith(selection.TAR_SUFFIXES)
    return f"{selection.MODEL_NAME}{selection.TAR_SUFFIXES[0] if is_tar else '.mar'}"
