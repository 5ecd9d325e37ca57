"""Run the pipeline on this machine by kfp's own local runner, each step in a process of its own."""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from kfp import local

from pipeline.definition import story
from pipeline.steps import CACHED, MARK, RECORD, STEPS

RUNS = "runs"
"""In the pipeline's folder: a folder for each run, where its steps lay what they make."""


def run(root: Path, until: str, parameters: dict[str, Any], cached: list[str]) -> bool:
    """Run it up to a step and show how each step went; return whether all went well.

    The variable PIPELINE_RECORD names the file for the steps' records.
    """
    record = Path(os.environ[RECORD])
    record.touch()
    # kfp looks for Docker's client and would find this repository's folder docker/, which is none.
    sys.modules["docker"] = None  # type: ignore[assignment]
    # It warns that an image, which it does not use, may not be one of Python's.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp.local")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root / RUNS),
        enable_caching=bool(cached),
        cache_root=str(root / "cache"),
    )
    failed = ""
    try:
        story(until, cached=cached)(**parameters)
    except RuntimeError as error:  # kfp has no other word for a step that failed
        failed = str(error)
    states = outcome(record, until, went_well=not failed)
    for name, state in states.items():
        print(f"{MARK}  {state:8} {name}", flush=True)
    if failed and "failed" not in states.values():
        print(f"{MARK}{failed}", flush=True)  # kfp's own word, where no step has one
    return not failed


def outcome(record: Path, until: str, *, went_well: bool) -> dict[str, str]:
    """Return how each step went: done, failed, cached or not run."""
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    ran = {line["step"]: line["state"] for line in lines}
    last = max((STEPS.index(name) for name in ran), default=-1)
    return {
        name: ran.get(name, "cached" if went_well or number < last else "not run")
        for number, name in enumerate(STEPS[: STEPS.index(until) + 1])
    }


def main() -> None:
    """Run the command line; the exit code is 1 where a step failed."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.local_runner", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--parameters", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--cached", choices=CACHED, nargs="*", default=list(CACHED))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        os.environ["TMPDIR"] = folder  # kfp's steps leave their source there
        went_well = run(args.root, args.until, args.parameters, args.cached)
    sys.exit(not went_well)


if __name__ == "__main__":
    main()
