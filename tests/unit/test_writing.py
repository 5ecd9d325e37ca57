"""Plain words in everything that people read, and documentation that matches the files it names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images import ROOT
from tests.programs import run_program

REPLACEMENTS = {
    r"rehears\w*": "emulate, smoke test",
    r"stand-?ins?": "emulator",
    r"stor(?:y|ies)": "flow, walkthrough",
    r"front doors?": "nginx, proxy",
    r"mend(?:s|ed)?": "fix",
    r"champions?|challengers?": "best, candidate",
    r"crowds?": "load, many requests",
    r"told|tells?|said": "log, report, send, return, contain",
    r"go(?:es)? on": "continue",
    r"for want of": "because of missing, out of",
    r"nobody|somebody|whoever": "no client, another user, the caller",
    r"lacking": "missing",
    r"patience": "timeout",
    r"(?:held|hold) against": "compared with, tested against",
    r"come into being|comes to be": "be created",
}
PRIVATE = re.compile(rf"\b(?:{'|'.join(REPLACEMENTS)})\b", re.IGNORECASE)

EXCEPTIONS = {
    "rehearse stand-in start": "make targets of version 0.1, with a warning",
    "RENAMED_": "the same",
    "--patience": "an option of version 0.1, with a warning",
    "args.patience": "the same",
    "/rehearsal/faults": "a path of version 0.1",
    "_file.tell()": "a method of Python's files",
}
"""Parts of the lines that may have such a word, and why."""

SKIPPED = re.compile(
    r".*\.(?:lock|mar|png|safetensors|json)|LICENSE|CHANGELOG\.md"
    r"|tests/unit/test_writing\.py|tests/.*\.py|pipeline/pipeline\.yaml"
)


def tracked() -> list[str]:
    """Return the paths of all files but the models, which may be the user's own; skip outside of a git checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: it lists the tracked files")
    listed = run_program(["git", "-C", str(ROOT), "ls-files"]).out.splitlines()
    return [path for path in listed if (ROOT / path).is_file() and not path.startswith("model/")]


def replacement(word: str) -> str:
    """Return what to write in place of a word."""
    return next(
        plain for pattern, plain in REPLACEMENTS.items() if re.fullmatch(pattern, word, re.I)
    )


def private_words(path: str) -> Iterator[str]:
    """Yield one line of advice for each private word in a file."""
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if any(part in line for part in EXCEPTIONS):
            continue
        for match in PRIVATE.finditer(line):
            yield f"{path}:{number}: {match[0]!r}: write {replacement(match[0])}"


def test_code_help_errors_and_docs_use_the_standard_words() -> None:
    paths = [path for path in tracked() if not SKIPPED.fullmatch(path)]
    assert len(paths) > 100
    found = [advice for path in paths for advice in private_words(path)]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    modules = [path for path in tracked() if path.endswith(".py")]
    docstrings = {path: ast.get_docstring(ast.parse((ROOT / path).read_text())) for path in modules}
    assert len(docstrings) > 100
    too_short = [path for path, text in docstrings.items() if len((text or "").split()) < 4]
    assert not too_short


def pages() -> list[str]:
    return [path for path in tracked() if path.endswith(".md") and path != "CHANGELOG.md"]


def test_links_between_pages_resolve() -> None:
    broken = []
    for page in pages():
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", text):
            file, _, anchor = target.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page}: {target}")
    assert not broken


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {each.strip().replace(" ", "-") for each in words}


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`([a-z_]+/[\w./-]*|[\w.]+\.(?:py|toml|yaml))`", text)
    assert len(named) > 40
    paths = [f"/{path}/" for path in tracked()]
    missing = [name for name in named if not any(f"/{name.strip('/')}/" in path for path in paths)]
    # The examples may be deleted, `build/` is written by make, and the others are a model's own files.
    written = {"model.py", "model-config.yaml"}
    assert [n for n in missing if not n.startswith(("model/", "build/")) and n not in written] == []
