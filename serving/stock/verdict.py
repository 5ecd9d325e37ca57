"""Judge a stock archive by what was read in it and by what happened when it was served."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from serving.stock import packages
from serving.stock.changes import list_installed
from serving.stock.contents import Contents, Finding
from serving.stock.image_trial import is_in_own_image
from serving.stock.local_trial import HERE
from serving.stock.outcome import NETWORK_ERROR, Outcome, find_cause

MAX_SHOWN_CHARS = 200
TRUSTED = "if you trust the archive, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1: in [env] of deploy.toml, and before make"
HINTS = {
    r"[Ww]eights only load failed|weights_only": f"torch 2.6 and later load only weights: {TRUSTED}",
    r"Read-only file system|Permission denied": "only files below /tmp can be written",
    r"[Dd]efault credentials were not found|DefaultCredentialsError|metadata\.google\.internal": (
        "it needs Google credentials, which it gets on Vertex AI only: put what it reads into the archive, "
        "or try it there"
    ),
    r"InvalidCxxCompiler|[Nn]o working C\+\+ compiler|Failed to find C compiler": (
        "the image has no compiler: remove torch.compile, or `pt2` of the model's config, or use the backend aot_eager"
    ),
    r"not compiled with CUDA|No CUDA GPUs|Found no NVIDIA driver|on a CUDA device": (
        "the image is for CPUs: let the handler choose the device by torch.cuda.is_available(), or build "
        "an image with TORCH= and TORCH_INDEX= of a torch for CUDA"
    ),
    r"torchvision::nms does not exist": (
        "this torchvision was built for another torch: pin the version made for the image's torch"
    ),
    r"'(?:list|str|bytes|int|float)' object has no attribute 'get'": (
        'it expects objects with "data": set WRAP_INSTANCES=data if clients send bare instances'
    ),
    r"JSON serializable": (
        "return numbers, texts, lists and dicts: .tolist() of a tensor or an array, .item() of a NumPy number, "
        "base64 of bytes; TorchServe's own envelope fails, too"
    ),
    r"instances: missing": (
        'if clients send another document than {"instances": [...]}, the handler was written '
        "without TorchServe's JSON envelope: set SERVICE_ENVELOPE=none"
    ),
}
"""What to do about an error that matches a pattern."""


REQUIREMENTS = {
    r"numpy\.dtype size changed|compiled using NumPy 1|numpy\.core\.multiarray": (
        "a package was built for NumPy 1",
        "numpy<2",
    ),
    r"libGL|libgthread": ("opencv-python needs a screen", "opencv-python-headless"),
}
"""What explains an error that matches a pattern, and the requirement that fixes it."""


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


def combine(
    contents: Contents, findings: list[Finding], outcome: Outcome | None, request: Path | None
) -> Report:
    """Return a report in which the trial outranks what was read."""
    if outcome is None:
        return Report(findings, None)
    tried = _judge(contents, outcome, request)
    if tried.works is not False:
        findings = [_confirm(contents, finding, outcome, request) for finding in findings]
    if outcome.network and outcome.place != HERE:
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
    if finding.requirement and is_in_own_image(contents.path, outcome):
        return Finding(True, f"{finding.requirement}: installed {outcome.place}")
    used = "the request was answered" if request else "it loads"
    return finding._replace(
        works=None, description=f"{finding.description}; {used} without a change {outcome.place}"
    )


def _judge(contents: Contents, outcome: Outcome, request: Path | None) -> Finding:
    """Return the finding of a trial."""
    exception, location = find_cause(outcome, contents.names)
    at = f" ({location})" if location else ""
    if outcome.startup_s is None:
        hint, requirement = _advise(f"{outcome.error}\n{exception}", contents)
        # The stock handler and Python's parser name the place, too.
        is_named = re.search(r" \(\S+(:|, line )\d+\)$", outcome.error)
        reason = outcome.error if is_named else f"{outcome.error}{at}"
        return Finding(False, f"it does not load: {reason}", hint, requirement)
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
        if package := packages.find_package(match[1], contents):
            return "", packages.pin(package, contents)
        name = f"the package that provides {match[1]}"
        build = contents.build_command
        return f"write {name} in requirements.txt beside the archive, then {build}", ""
    named = re.findall(r"Missing optional dependency '(.+?)'", error)
    if names := named or list_installed(error):
        hint = ""
        if "non-zero exit status" in error:
            hint = "the image has no pip: remove the installation from the handler, and add the packages by "
            hint += contents.build_command
        return hint, names[0]
    if advice := next((v for k, v in REQUIREMENTS.items() if re.search(k, error)), None):
        return advice
    if NETWORK_ERROR.search(error) and "metadata.google.internal" not in error:
        return "put what it downloads into the archive", ""
    return next((hint for pattern, hint in HINTS.items() if re.search(pattern, error)), ""), ""
