"""Report whether a stock .mar works in this project's image, and if not, what to change.

The archive's files are read, then it is served once: in the image if a Docker engine responds, else
on this machine with only the packages of the image. That runs the archive's code: use it only with
archives you trust. The exit code is 0 if the archive works, 1 if it needs a change, 2 for a usage error.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from contract.docker import Docker
from project.model_folder import ARCHIVE_SUFFIXES, REQUIREMENTS, describe_other
from project.requirements import adapt, read_lines
from serving.errors import ArchiveError
from serving.selection import select_files
from serving.stock import image_trial, inspect, local_trial
from serving.stock.contents import Contents, Finding
from serving.stock.image_trial import VARIABLES, is_in_own_image, own_image
from serving.stock.outcome import Outcome, TrialError, find_cause, name_in_storage
from serving.stock.verdict import Report, combine

STATES = {True: "works", False: "FAILS", None: "check"}


def main() -> None:
    """Print the findings, the verdict and the commands that follow from it."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.stock",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("archive", help="the .mar (make migrate: MAR=)")
    add("--request", type=Path, help="a file with the body of a request to send (REQUEST=)")
    add("--no-trial", action="store_true", help="only read the files")
    text = "the image to try it in; built if it does not exist (default: that of make build)"
    add("--image", help=text)
    default = os.environ.get("DOCKER") or "docker"
    add("--docker", default=default, help="the Docker client (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    archive = Path(args.archive)
    if not args.archive or not archive.exists():
        parser.error(f"MAR={args.archive}: expected the path of a .mar")
    if args.request and not args.request.is_file():
        parser.error(f"REQUEST={args.request}: the file does not exist")
    contents = outcome = None
    try:
        contents = inspect.read_archive(archive)
        findings = list(inspect.inspect_archive(contents))
        if not args.json:
            print(f"{archive}: model {contents.manifest.name}, {len(contents.names)} files")
        if not args.no_trial:
            outcome = _try(contents, args.request, args.image, args.docker)
        report = combine(contents, findings, outcome, args.request)
    except ArchiveError as error:
        is_named = archive.is_file() and archive.name.lower().endswith(ARCHIVE_SUFFIXES)
        other = "" if is_named or contents else describe_other(archive)
        report = Report([Finding(False, f"{archive}: {other}" if other else str(error))], None)
    except TrialError as error:
        tried = Finding(None, f"it was not tried: {error}")
        report = Report([*findings, tried], None)
    commands = _list_commands(archive, contents, report, outcome, args.image)
    if args.json:
        print(json.dumps(_to_document(archive, contents, report, outcome, commands), indent=2))
    else:
        _print(report, commands)
    sys.exit(bool(report.failing))


def _try(contents: Contents, request: Path | None, image: str | None, docker: str) -> Outcome:
    """Serve the archive once, in the image if a Docker engine responds; raise TrialError."""

    def log(message: str) -> None:
        print(f"        ({message})", file=sys.stderr, flush=True)

    engine = Docker(docker)
    try:
        if engine.is_available():
            return image_trial.run_in_image(contents, request, engine, image, log)
        reason = f"no Docker engine responds to {docker}"
    except TrialError as error:
        reason = str(error)
    log(f"{reason}; trying it {local_trial.HERE}")
    return local_trial.run_here(contents, request)


def _list_commands(
    archive: Path,
    contents: Contents | None,
    report: Report,
    outcome: Outcome | None,
    image: str | None,
) -> dict[str, str]:
    """Return the commands that follow from a report."""
    name, path = shlex.quote(str(archive)), archive.resolve()
    build = f"make build MODEL={name}"
    deploy = "PROJECT=my-project REGION=us-central1"
    if report.requirements:
        file = archive.with_name(REQUIREMENTS)
        listed: set[str] = set()
        if contents:
            name_listed, text = contents.requirements
            listed = _list_packages(text, is_own=name_listed in contents.sources)
        lines = [line for line in report.requirements if not _list_packages(line) <= listed]
        adding = {}
        if lines:  # a new file replaces that of the archive, so it gets all
            quoted = " ".join(map(shlex.quote, lines if file.is_file() else report.requirements))
            adding["add packages"] = f"printf '%s\\n' {quoted} >> {shlex.quote(str(file))}"
        renaming = {}
        if not own_image(archive):  # its name is not one of a model
            new = archive.with_name(name_in_storage(archive) if archive.is_file() else "model")
            renaming["first"] = f"mv {name} {shlex.quote(str(new))}"
            name = shlex.quote(str(new))
            build = f"make build MODEL={name}"
        return {
            **renaming,
            **adding,
            "image of its own": build,
            "without Docker": f"make serve MODEL={name}",
            "check again": f"make migrate MAR={name}",
        }
    if report.failing:
        return {"check again": f"make migrate MAR={name}"}
    folder = shlex.quote(str(path if path.is_dir() else path.parent))
    variables = {each: os.environ[each] for each in VARIABLES if os.environ.get(each)}
    before = "".join(f"{each}={shlex.quote(value)} " for each, value in variables.items())
    own = {}
    if own_image(archive):
        own = {"image of its own": build, "run": f"{before}make run MODEL={name}"}
    is_built = outcome and is_in_own_image(archive, outcome)
    has_packages = archive.with_name(REQUIREMENTS).is_file()
    if is_built or has_packages or not _is_selected(path):
        commands = {
            "serve here": f"{before}make serve MODEL={name}",
            **own,
            "cloud": f"make deploy-endpoint MODEL={name} {deploy}",
        }
    else:
        chosen = f" IMAGE={image}" if image else ""
        setting = 'artifact_uri = "gs://BUCKET/FOLDER", the folder of the .mar today'
        commands = {
            "serve here": f"{before}make serve STORAGE={folder}",
            "serve in the image": f"{before}make run STORAGE={folder}{chosen}",
            **own,
            "cloud": f"make deploy-endpoint {deploy}",
            "cloud setting": f"in deploy.toml: {setting}",
        }
    if variables:
        pairs = ", ".join(f"{each} = {json.dumps(value)}" for each, value in variables.items())
        commands["cloud variable"] = f"in [env] of deploy.toml: {pairs}"
    return commands


def _is_selected(archive: Path) -> bool:
    """Whether the archive is the one that is served if its folder is the storage."""
    if archive.is_dir():
        return True
    names = [file.name for file in archive.parent.iterdir() if file.is_file()]
    try:
        return select_files(names, ()).archives == (archive.name,)
    except ArchiveError:  # several, or a format that is not served from a storage
        return False


def _list_packages(text: str, *, is_own: bool = False) -> set[str]:
    """Return the packages that a requirements.txt becomes in the image, and its other lines."""
    lines = read_lines(adapt(text, REQUIREMENTS, is_own=is_own)[0], REQUIREMENTS)
    return {line.name or line.text for line in lines}


def _print(report: Report, commands: dict[str, str]) -> None:
    print()
    for finding in (*report.findings, *([report.tried] if report.tried else [])):
        print(f"{STATES[finding.works]}   {finding.description}")
        if finding.hint:
            print(f"        -> {finding.hint}")
    print(f"\n{_summarize(report)}")
    for purpose, command in commands.items():
        print(f"  {purpose}: {command}")
    if report.failing:
        print("\nmake reports this result as an error.", flush=True)


def _summarize(report: Report) -> str:
    """Return the verdict in one line."""
    if report.failing:
        last = report.failing[-1]
        if not report.requirements:
            return f"The archive needs a change: {last.description}"
        count = len(report.requirements)
        return f"The archive needs {count} {'package' if count == 1 else 'packages'} that the image does not have:"
    if report.tried is None:
        return "Nothing in its files needs a change; it was not tried."
    return "The archive works with this image: upload the model with it and with its current artifact URI."


def _to_document(
    archive: Path,
    contents: Contents | None,
    report: Report,
    outcome: Outcome | None,
    commands: dict[str, str],
) -> dict[str, Any]:
    """Return the report as a JSON object."""
    exception, location = find_cause(outcome, contents.names) if outcome and contents else ("", "")
    return {
        "archive": str(archive),
        "model": contents.manifest.name if contents else None,
        "findings": [_to_object(finding) for finding in report.findings],
        "trial": report.tried
        and outcome
        and {
            **_to_object(report.tried),
            "place": outcome.place,
            "startup_s": outcome.startup_s,
            "response": outcome.response,
            "exception": exception,
            "location": location,
        },
        "verdict": "FAILS" if report.failing else "works" if report.tried else "not tried",
        "summary": _summarize(report),
        "requirements": report.requirements,
        "commands": commands,
    }


def _to_object(finding: Finding) -> dict[str, str]:
    state = STATES[finding.works]
    return {"state": state, **{k: v for k, v in finding._asdict().items() if k != "works"}}


if __name__ == "__main__":
    main()
