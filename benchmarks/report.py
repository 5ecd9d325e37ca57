"""Tables in pages that people read, replaced where they stand."""

import os
import re
from pathlib import Path


class NoPlace(Exception):
    """A page has no place for a table."""


def replace(page: Path, name: str, table: str) -> None:
    """Put a table between `<!-- NAME -->` and `<!-- end -->` in a page; raise NoPlace."""
    text = page.read_text()
    found = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not found.search(text):
        raise NoPlace(f"{page} has no <!-- {name} --> ... <!-- end -->")
    page.write_text(found.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text))


def machine() -> str:
    """Describe the machine in a few words."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{model[1] if model else 'unknown processor'}, {cores} cores"
