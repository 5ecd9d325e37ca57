"""Report whether a stock .mar works in this project's image, and if not, what to change.

The archive's files are read, then it is served once: in the image if a Docker engine responds, else
on this machine with only the packages of the image. That runs the archive's code: use it only with
archives you trust. The exit code is 0 if the archive works, 1 if it needs a change, 2 for a usage error.
"""

import argparse
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from contract.docker import Docker
from serving.errors import ArchiveError
from serving.stock import inspect, packages, trial
from serving.stock.inspect import Contents, Finding
from serving.stock.trial import Outcome, TrialError

STATES = {True: "works", False: "FAILS", None: "check"}
MAX_SHOWN_CHARS = 200
TRUSTED = "if you trust the archive, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1: in [env] of deploy.toml, and before make"
HINTS = {
    r"[Ww]eights only load failed|weights_only": f"torch 2.6 and later load only weights: {TRUSTED}",
    r"Read-only file system": "the image's file system is read-only: write below /tmp",
    r"InvalidCxxCompiler|[Nn]o working C\+\+ compiler|Failed to find C compiler": (
        "the image has no compiler: remove `pt2` from the model's config, or set its backend to aot_eager"
    ),
    r"torchvision::nms does not exist": (
        "this torchvision was built for another torch: pin the version made for the image's torch"
    ),
    r"instances: missing": (
        'if clients send another document than {"instances": [...]}, the handler was written '
        "without TorchServe's JSON envelope: set SERVICE_ENVELOPE=none"
    ),
}
"""What to do about an error that matches a pattern."""


class Report(NamedTuple):
    """All findings about an archive, and what follows from them."""

    findings: list[Finding]
    tried: Finding | None
    """The result of the trial; None without one."""

    @property
    def failing(self) -> list[Finding]:
        """The findings that need a change: the trial's if there was one, and those that explain it."""
        if self.tried and self.tried.works is not False:
            return []
        found = [*self.findings, *([self.tried] if self.tried else [])]
        return [finding for finding in found if finding.works is False]

    @property
    def requirements(self) -> list[str]:
        """The lines of requirements.txt that add the missing packages."""
        if not any(finding.requirement for finding in self.failing):
            return []
        # A requirements.txt beside the archive replaces the archive's own, so that it lists all.
        found = [*self.findings, *self.failing]
        return list(dict.fromkeys(each.requirement for each in found if each.requirement))


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
        report = _combine(contents, findings, outcome, args.request)
    except ArchiveError as error:
        report = Report([Finding(False, str(error))], None)
    except TrialError as error:
        tried = Finding(None, f"it was not tried: {error}")
        report = Report([*findings, tried], None)
    commands = _list_commands(archive, report, outcome, args.image)
    if args.json:
        print(json.dumps(_to_document(archive, contents, report, outcome, commands), indent=2))
    else:
        _print(report, commands)
    sys.exit(bool(report.failing))


def _try(contents: Contents, request: Path | None, image: str | None, docker: str) -> Outcome:
    """Serve the archive once, with its progress on standard error."""

    def log(message: str) -> None:
        print(f"        ({message})", file=sys.stderr, flush=True)

    return trial.run_trial(contents, request, Docker(docker), image, log)


def _combine(
    contents: Contents, findings: list[Finding], outcome: Outcome | None, request: Path | None
) -> Report:
    """Return a report in which the trial outranks what was read."""
    if outcome is None:
        return Report(findings, None)
    tried = _judge(contents, outcome, request)
    if tried.works is not False:
        findings = [_confirm(contents, finding, outcome, request) for finding in findings]
    if outcome.network and outcome.place != trial.HERE:
        text = "it needs a network to load or to answer"
        hint = "put what it downloads into the archive, or give the endpoint access to the internet"
        findings = [*findings, Finding(None, text, hint)]
    return Report(findings, tried)


def _confirm(
    contents: Contents, finding: Finding, outcome: Outcome, request: Path | None
) -> Finding:
    """Return a finding after a trial that worked: nothing in it fails."""
    if finding.works is not False:
        return finding
    if finding.requirement and _is_in_own_image(contents.path, outcome):
        return Finding(True, f"{finding.requirement}: installed {outcome.place}")
    used = "the request was answered" if request else "it loads"
    return finding._replace(
        works=None, description=f"{finding.description}; {used} without a change {outcome.place}"
    )


def _judge(contents: Contents, outcome: Outcome, request: Path | None) -> Finding:
    """Return the finding of a trial."""
    exception, location = trial.find_cause(outcome, contents.names)
    at = f" ({location})" if location else ""
    if outcome.startup_s is None:
        hint, requirement = _advise(f"{outcome.error}\n{exception}", contents)
        at = "" if at in str(outcome.error) else at  # the stock handler names it, too
        # The error may end in a line outside of the archive.
        error = (
            re.sub(r" \([^()\s]+(?: [^()\s]+)?:\d+\)$", "", outcome.error) if at else outcome.error
        )
        return Finding(False, f"it does not load: {error}{at}", hint, requirement)
    ready = f"ready after {outcome.startup_s:.1f} s {outcome.place}"
    if outcome.response is None:
        return Finding(True, f"a worker loads it: {ready}")
    if "error" in outcome.response:
        return Finding(False, f"{request}: no response: {outcome.response['error']}")
    status, shown = int(outcome.response["status"]), _show(outcome.response)
    text = f"{request}: the response is {shown} ({ready})"
    if status < 400:
        return Finding(True, text)
    if status < 500 and not _is_ours(outcome.response["body"]):
        hint = "the handler itself sets this status; clients get it unchanged"
        return Finding(None, text, hint)
    cause = f": {exception}{at}" if exception else ""
    hint, requirement = _advise(f"{outcome.response['body']}\n{exception}", contents)
    return Finding(False, f"{request}: the response is {shown}{cause}", hint, requirement)


def _show(response: dict[str, Any]) -> str:
    body = " ".join(str(response["body"]).split())
    body = body if len(body) <= MAX_SHOWN_CHARS else f"{body[:MAX_SHOWN_CHARS]}…"
    parts = f" in {response['parts']} parts" if response["parts"] > 1 else ""
    kind = str(response["content_type"]).partition(";")[0]
    kind = "" if kind == "application/json" else f" {kind}"
    return f"{response['status']}{kind}{parts} {body}"


def _is_ours(body: str) -> bool:
    """Whether a body is an error of this project, not of the archive's handler."""
    try:
        return set(json.loads(body)["error"]) >= {"code", "message", "status"}
    except (ValueError, TypeError, LookupError):
        return False


def _advise(error: str, contents: Contents) -> tuple[str, str]:
    """Return what to do about an error, and the requirement that is missing; "" if unknown."""
    if match := re.search(r"No module named '([\w.]+)'", error):
        package = packages.find_package(match[1])
        if not package:
            name = f"the package that provides {match[1]}"
            build = contents.build_command
            return f"write {name} in requirements.txt beside the archive, then {build}", ""
        return "", packages.pin(package, contents)
    if trial.NETWORK_ERROR.search(error):
        return "put what it downloads into the archive", ""
    return next((hint for pattern, hint in HINTS.items() if re.search(pattern, error)), ""), ""


def _list_commands(
    archive: Path, report: Report, outcome: Outcome | None, image: str | None
) -> dict[str, str]:
    """Return the commands that follow from a report."""
    name, path = shlex.quote(str(archive)), archive.resolve()
    build = f"make build MODEL={name}"
    deploy = "PROJECT=my-project REGION=us-central1"
    if report.requirements:
        lines = " ".join(map(shlex.quote, report.requirements))
        file = shlex.quote(str(archive.with_name("requirements.txt")))
        packing = {}
        if not trial.own_image(archive):
            packing["first"] = (
                "make a .mar of it by torch-model-archiver, or zip its files as model.mar"
            )
            build, name = "make build MODEL=model.mar", "model.mar"
        return {
            **packing,
            "add packages": f"printf '%s\\n' {lines} >> {file}",
            "image of its own": build,
            "without Docker": f"make serve MODEL={name}",
            "check again": f"make migrate MAR={name}",
        }
    if report.failing:
        return {"check again": f"make migrate MAR={name}"}
    folder = shlex.quote(str(path if path.is_dir() else path.parent))
    variables = {each: os.environ[each] for each in trial.VARIABLES if os.environ.get(each)}
    before = "".join(f"{each}={shlex.quote(value)} " for each, value in variables.items())
    own = {}
    if trial.own_image(archive):  # only a .mar can be a model
        own = {"image of its own": build, "run": f"{before}make run MODEL={name}"}
    if (outcome and _is_in_own_image(archive, outcome)) or archive.with_name(
        "requirements.txt"
    ).is_file():
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
        lines = ", ".join(f"{each} = {json.dumps(value)}" for each, value in variables.items())
        commands["cloud variable"] = f"in [env] of deploy.toml: {lines}"
    return commands


def _is_in_own_image(archive: Path, outcome: Outcome) -> bool:
    """Whether the trial was in the image that `make build MODEL=archive` made."""
    own = trial.own_image(archive)
    return own is not None and outcome.place == trial.describe_image(own)


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
    exception, location = (
        trial.find_cause(outcome, contents.names) if outcome and contents else ("", "")
    )
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
