"""Run the pipeline on this machine with kfp's local runner, each step in a process of its own."""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from kfp import local

from pipeline.definition import build_pipeline
from pipeline.steps import CACHED, RECORDS_VARIABLE, STEP_LINE_PREFIX, STEPS

RUNS = "runs"
"""The folder, inside the pipeline's root, with a folder of artifacts for each run."""


def run(root: Path, name: str, until: str, parameters: dict[str, Any], cached: list[str]) -> bool:
    """Run the pipeline up to a step and print the state of each step; return whether all succeeded.

    The variable PIPELINE_RECORD names the file for the steps' records.
    """
    record_file = Path(os.environ[RECORDS_VARIABLE])
    record_file.touch()
    # kfp imports the Docker SDK if it finds it. The folder docker/ of this repository would be imported in its place,
    # as a namespace package without the SDK's names.
    sys.modules["docker"] = None  # type: ignore[assignment]
    # kfp warns that the image, which the local runner does not use, may not be a Python image.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp.local")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root / RUNS),
        enable_caching=bool(cached),
        cache_root=str(root / "cache"),
    )
    error_message = ""
    try:
        build_pipeline(name, until, cached=cached)(**parameters)
    except RuntimeError as error:  # kfp raises nothing more specific for a failed step
        error_message = str(error)
    states = read_states(record_file, until, succeeded=not error_message)
    for step, state in states.items():
        print(f"{STEP_LINE_PREFIX}  {state:8} {step}", flush=True)
    if error_message and "failed" not in states.values():
        print(f"{STEP_LINE_PREFIX}{error_message}", flush=True)
    return not error_message


def read_states(record_file: Path, until: str, *, succeeded: bool) -> dict[str, str]:
    """Return the state of each step: done, failed, cached or not run."""
    records = [json.loads(line) for line in record_file.read_text().splitlines()]
    executed = {record["step"]: record["state"] for record in records}
    last = max((STEPS.index(name) for name in executed), default=-1)
    return {
        name: executed.get(name, "cached" if succeeded or index < last else "not run")
        for index, name in enumerate(STEPS[: STEPS.index(until) + 1])
    }


def main() -> None:
    """Run the pipeline locally; the exit code is 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.local_runner", description=__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder for runs and cache")
    add("--name", required=True, help="the pipeline's name")
    add("--until", choices=STEPS, default=STEPS[-1], help="the last step")
    add("--parameters", type=json.loads, default={}, metavar="JSON", help="pipeline parameters")
    add("--cached", choices=CACHED, nargs="*", default=list(CACHED), help="steps with caching on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        os.environ["TMPDIR"] = folder  # kfp leaves the steps' sources in temporary folders
        succeeded = run(args.root, args.name, args.until, args.parameters, args.cached)
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
