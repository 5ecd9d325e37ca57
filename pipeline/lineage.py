"""The lineage of an archive: the records of local runs, joined by the SHA-256 of inputs and outputs.

The record of a cached step is in the run that executed it. On Vertex AI the pipeline's own lineage has this
information.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from deploy.errors import UserError
from project.model_folder import Model


def describe(runs: Path, model: Model) -> str:
    """Return a line for each step that led to a model's archive, the last step first.

    Raises UserError if the archive does not exist or no run created it.
    """
    archive = model.archive
    if not archive.is_file():
        raise UserError(f"{archive} does not exist", "make pipeline")
    records = [record for record in _read_records(runs) if record.get("model") == model.name]
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    lines = [f"{archive.name}  sha256 {sha256[:12]}"]
    while (record := _find_producer(records, sha256)) is not None:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["began"]))
        pairs = record["parameters"].items()
        parameters = ", ".join(f"{name} {value}" for name, value in pairs if value != "")
        lines.append(
            f"  {record['step']:8} {started}, {record['seconds']} s{f': {parameters}' if parameters else ''}"
        )
        if record["step"] == "archive":  # the gate has no outputs: find it by its run
            lines += [
                f"  {'gate':8} {gate['parameters']['message']}"
                for gate in records
                if gate["step"] == "gate" and gate["run"] == record["run"]
            ]
        inputs = list(record["inputs"].values())
        if not inputs:
            break
        sha256 = inputs[0]["sha256"]
        lines.append(f"from {inputs[0]['uri'].rsplit('/', 1)[-1]}  sha256 {sha256[:12]}")
    if len(lines) == 1:
        raise UserError(f"no run on this machine created {archive}", "make pipeline")
    return "\n".join(lines)


def _read_records(runs: Path) -> list[dict[str, Any]]:
    return [
        {**json.loads(line), "run": file.stem}
        for file in sorted(runs.glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def _find_producer(records: list[dict[str, Any]], sha256: str) -> dict[str, Any] | None:
    """Return the last record of a step with an output, or an archive, of this SHA-256."""
    producers = [
        record for record in records if sha256 in (record.get("archive"), *_hash_outputs(record))
    ]
    return producers[-1] if producers else None


def _hash_outputs(record: dict[str, Any]) -> list[str]:
    return [output["sha256"] for output in record.get("outputs", {}).values()]
