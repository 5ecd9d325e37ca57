"""Check a model in seconds, without Java and Docker: what its archive would hold is loaded alone, and tried.

Each request of requests.json is sent alone, twice, and with the others; wrong ones must not get a 500. The exit code
is 1 if a check fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from authoring import expected, imports
from project import cli, weights
from project.environment import find_python
from project.model_folder import Model, add_model_option, find_model
from serving import archive
from serving.errors import ArchiveError
from serving.unpacking import unpack

PROGRAM = Path(__file__).with_name("check_model.py")
RUN = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_path(sys.argv[1], run_name='__main__')"
"""-I and this path: only the archive's contents and the installed packages can be imported."""
TIMEOUT_S = 300
"""For one check."""
REQUESTS = "requests.json"
MARGIN = " " * 6


class Report:
    """Prints results, and keeps what the last line needs."""

    def __init__(self, *, replaces_expected: bool) -> None:
        self._replaces_expected = replaces_expected
        self.checks = self.failures = 0
        self.differs = False
        """Whether a prediction is not the expected one."""
        self.requests: list[dict[str, Any]] = []
        """The name of each request, its prediction, and whether that is compared with an expected one."""
        self.is_stable = False
        self.modules: list[str] = []

    def add(self, status: str, text: str, details: list[str]) -> None:
        """Print a check with its details."""
        self.checks += status != "NOTE"
        self.failures += status == "FAIL"
        print(
            "\n".join([f"{status}  {text}", *(f"{MARGIN}{each}" for each in details)]), flush=True
        )

    def read(self, event: dict[str, Any]) -> None:
        """Handle a line of check_model.py."""
        if "status" not in event:
            vars(self).update(event)
            return
        status, details = event["status"], event["details"]
        if module := event.get("missing_module"):
            details.append(f"add the package that provides {module} to requirements.txt")
        if event.get("name") == "expected" and status == "FAIL":
            self.differs = True
            status = "NOTE" if self._replaces_expected else status
        self.add(status, event["text"], details)


def main(arguments: list[str] | None = None) -> None:
    """Check a model; exit with 1 if a check fails."""
    parser = argparse.ArgumentParser(
        prog="python -m authoring.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", metavar="MODEL", help="the same as --model")
    add_model_option(parser)
    text = "write the predictions into requests.json as `expected`, where it is missing, or of all requests"
    parser.add_argument(
        "--write", nargs="?", const="missing", choices=("missing", "all"), help=text
    )
    args = parser.parse_args(arguments)

    def run() -> None:
        model = find_model(args.path or args.model)
        if args.write and model.is_archive:
            raise cli.ProjectError("--write needs a folder; an archive is not changed")
        if model.is_archive:
            archive.build(model)  # its packages are taken from it
        python = find_python(model)
        if str(python) != sys.executable:
            command = [str(python), "-m", "authoring.check", *(arguments or sys.argv[1:])]
            os.execv(python, command)  # noqa: S606  a list of arguments
        sys.exit(check(model, args.write))

    cli.run("authoring.check", run, ArchiveError)


def check(model: Model, write: str | None) -> bool:
    """Check a model with the packages of this Python, and print the results; return whether a check fails."""
    report = Report(replaces_expected=write == "all")
    with tempfile.TemporaryDirectory(prefix="check-") as scratch:
        contents = Path(scratch) / "contents"
        if left_out := _collect(model, contents):
            report.add("NOTE", f"not in the archive: {', '.join(left_out)}", [])
        for event in _run(contents, model.path):
            report.read(event)
        _check_packages(contents, report)
    if write:
        _write_expected(model, report, write)
    _print_end(model, report)
    return report.failures > 0


def _collect(model: Model, contents: Path) -> list[str]:
    if model.is_archive:
        contents.mkdir()
        unpack(model.archive, contents)
        if not (contents / "handler").is_dir():
            hint = f"make migrate MAR={model.path} checks it"
            raise ArchiveError(f"{model.path} was not made by this project; {hint}")
        return []
    if weights.are_missing(model):
        weights.make_weights(model, [])
    return archive.collect(model, contents)


def _run(contents: Path, source: Path) -> Iterator[dict[str, Any]]:
    """Run check_model.py and yield its events; an end in the middle of a check is a failure of that check."""
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-I", "-B", "-c", RUN, str(PROGRAM), str(source)]
        process = subprocess.Popen(
            command, cwd=contents, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        current, timeout_s = "the packages of the archive are imported", TIMEOUT_S
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        def start_timer() -> threading.Timer:
            timer = threading.Timer(timeout_s, stop)
            timer.daemon = True  # Ctrl-C does not wait for it
            timer.start()
            return timer

        timer = start_timer()
        for line in process.stdout:
            timer.cancel()
            event = json.loads(line)
            if "begin" in event:
                current, timeout_s = event["begin"], event.get("timeout_s") or TIMEOUT_S
            else:
                yield event
            timer = start_timer()
        code = process.wait()
        timer.cancel()
        if code != 0:
            log.seek(0)
            last_line = log.read().strip().rpartition("\n")[2]
            reason = f"exit code {code}" + (f": {last_line}" if last_line else "")
            if is_late.is_set():
                reason = f"it is not done after {timeout_s} s"
            elif code < 0:
                reason = f"the process was ended by signal {-code}; it may have run out of memory"
            yield {"status": "FAIL", "text": current, "details": [reason]}


def _check_packages(contents: Path, report: Report) -> None:
    try:
        failures, notes = imports.find_missing(
            contents, report.modules, imports.read_image_packages()
        )
    except SyntaxError:
        return  # reported by the check that loads the model
    status = "FAIL" if failures else "PASS"
    report.add(status, "what the model imports is in the image or in requirements.txt", failures)
    for note in notes:
        report.add("NOTE", note, [])
    if uninstalled := list(imports.find_uninstalled(contents)):
        report.add("FAIL", "the packages of requirements.txt are installed", uninstalled)


def _write_expected(model: Model, report: Report, write: str) -> None:
    """Write the predictions into requests.json; report how many."""
    path = model.path / REQUESTS
    written = {
        index: expected.round_prediction(request["prediction"], request["tolerance"])
        for index, request in enumerate(report.requests)
        if "prediction" in request and (write == "all" or not request["is_compared"])
    }
    if not written:
        return
    if not report.is_stable:
        report.add(
            "NOTE", f"{path} is not changed: the predictions change from one time to the next", []
        )
        return
    expected.write_expected(path, written)
    report.add("NOTE", f"wrote the expected predictions of {len(written)} requests to {path}", [])
    for index in written:
        report.requests[index]["is_compared"] = True


def _print_end(model: Model, report: Report) -> None:
    """Print how many checks failed, and the next command."""
    unchecked = [
        str(index) for index, each in enumerate(report.requests) if not each["is_compared"]
    ]
    if unchecked:
        text = "requests without `expected`, or with an empty one, are not compared"
        report.add("NOTE", text, [f"{REQUESTS}[{index}]" for index in unchecked])
    command = f"make check {model.selection}"
    if report.failures:
        hint = f"fix them and run {command} again"
        if report.differs:
            hint += f", or replace the expected predictions with {command} ARGS=--write=all"
        print(f"{report.failures} of {report.checks} checks failed: {hint}")
    elif unchecked and not model.is_archive:
        print(
            f"all checks passed; next: {command} ARGS=--write writes the predictions as `expected`"
        )
    else:
        print(f"all checks passed; next: make serve {model.selection}")


if __name__ == "__main__":
    main()
