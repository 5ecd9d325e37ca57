"""Where an archive comes from: the records of the runs on this machine, joined by SHA-256.

A step that was cached left its record in the run in which it ran. On Vertex AI the pipeline's own
lineage says the same.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from deploy.errors import UserError


def tell(runs: Path, archive: Path) -> str:
    """Return the steps that led to an archive, the last first; raise Stop where none is known."""
    if not archive.is_file():
        raise UserError(f"{archive} does not exist", "make pipeline")
    records = _records(runs)
    wanted = hashlib.sha256(archive.read_bytes()).hexdigest()
    lines = [f"{archive.name}  sha256 {wanted[:12]}"]
    while (made := _made(records, wanted)) is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(made["began"]))
        given = ", ".join(
            f"{name} {value}" for name, value in made["parameters"].items() if value != ""
        )
        lines.append(
            f"  {made['step']:8} {when}, {made['seconds']} s{f': {given}' if given else ''}"
        )
        if made["step"] == "archive":  # of the same run, what the gate said
            gates = [each for each in records if each["step"] == "gate"]
            said = [each for each in gates if each["run"] == made["run"]]
            lines += [f"  {'gate':8} {each['parameters']['message']}" for each in said]
        inputs = list(made["inputs"].values())
        if not inputs:
            break
        wanted = inputs[0]["sha256"]
        lines.append(f"of {inputs[0]['uri'].rsplit('/', 1)[-1]}  sha256 {wanted[:12]}")
    if len(lines) == 1:
        raise UserError(f"no run here made {archive}", "make pipeline")
    return "\n".join(lines)


def _records(runs: Path) -> list[dict[str, Any]]:
    return [
        {**json.loads(line), "run": file.stem}
        for file in sorted(runs.glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def _made(records: list[dict[str, Any]], sha256: str) -> dict[str, Any] | None:
    """Return the last record of a step that made what has this SHA-256."""
    made = [
        record
        for record in records
        if sha256 in {output["sha256"] for output in record.get("outputs", {}).values()}
    ]
    return made[-1] if made else None
