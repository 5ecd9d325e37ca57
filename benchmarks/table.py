"""Write the ratios of results of `make bench` into README.md and benchmarks/README.md, between two marks."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.results import Row, find_failures, format_ratios
from benchmarks.workloads import BUILD

PAGES = (Path("README.md"), Path("benchmarks/README.md"))
START, END = "<!-- python -m benchmarks.table writes this -->\n", "<!-- end of the table -->"


def main() -> None:
    """Parse the options and rewrite the pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    text = "run-TIME.json; of several, the last with a workload counts (default: the newest run)"
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help=text)
    args = parser.parse_args()
    try:
        table = format_ratios(read_documents(args.files or find_newest(BUILD)))
        for page in PAGES:
            write_table(page, table)
    except BenchmarkError as error:
        sys.exit(f"benchmarks.table: {error}")
    print(table)


def find_newest(folder: Path) -> list[Path]:
    """Return the file of the newest run; raise BenchmarkError."""
    files = sorted(folder.glob("run-*.json"))
    if not files:
        raise BenchmarkError(f"{folder} has no run-*.json: run make bench")
    return files[-1:]


def read_documents(files: list[Path]) -> dict[str, Any]:
    """Return the last document, with the rows of every workload; raise BenchmarkError."""
    documents = []
    for file in files:
        try:
            documents.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{file}: {error}") from error
        try:
            parsed = [Row(**row) for row in documents[-1]["rows"]]
        except (KeyError, TypeError) as error:
            raise BenchmarkError(f"{file}: not a file of make bench: {error}") from error
        if failures := find_failures(parsed):
            raise BenchmarkError(f"{file} is not published: {'; '.join(failures)}")
    by_workload: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        for name in dict.fromkeys(row["workload"] for row in document["rows"]):
            by_workload[name] = [row for row in document["rows"] if row["workload"] == name]
    rows = [row for rows in by_workload.values() for row in rows]
    return {**documents[-1], "rows": rows}


def write_table(page: Path, table: str) -> None:
    """Replace the text between the marks of a page; raise BenchmarkError."""
    text = page.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise BenchmarkError(f"{page} has no lines {START.strip()} and {END}")
    page.write_text(f"{before}{start}\n{table}\n\n{end}{after}")


if __name__ == "__main__":
    main()
