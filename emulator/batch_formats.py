"""The instances of a batch prediction job: read from files, and converted as its InstanceConfig says."""

import base64
import csv
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.cloud import aiplatform_v1 as v1

from emulator import artifacts
from emulator.config import EmulatorConfig
from emulator.errors import failed_precondition, invalid_argument
from emulator.models import INPUT_FORMATS, OUTPUT_FORMATS
from emulator.routes import not_supported

SUPPORTED_INPUTS = "jsonl", "csv", "file-list"


class Instance(NamedTuple):
    """One instance of a batch prediction job."""

    value: Any
    """What the container gets."""
    output: dict[str, Any]
    """What a line of the output has beside the prediction: the instance, or its key."""


def check(job: v1.BatchPredictionJob) -> None:
    """Raise ApiError for formats and conversions that Google or the emulator does not support."""
    source, target = job.input_config.instances_format, job.output_config.predictions_format
    if source not in INPUT_FORMATS:
        raise invalid_argument(f"instances_format {source}: expected {', '.join(INPUT_FORMATS)}.")
    if target not in OUTPUT_FORMATS:
        raise invalid_argument(
            f"predictions_format {target}: expected {', '.join(OUTPUT_FORMATS)}."
        )
    is_bigquery = source == "bigquery", target == "bigquery"
    if is_bigquery != (
        "bigquery_source" in job.input_config,
        "bigquery_destination" in job.output_config,
    ):
        raise invalid_argument(
            "The formats do not match input_config.source and output_config.destination: bigquery needs "
            "bigquery_source and bigquery_destination, the others gcs_source and gcs_destination."
        )
    if any(is_bigquery):
        raise not_supported("batch prediction with BigQuery (use jsonl or csv in Cloud Storage)")
    if source not in SUPPORTED_INPUTS:
        raise not_supported(f"batch prediction from {source}")
    config = job.instance_config
    if source == "file-list" and (
        config.key_field or config.included_fields or config.excluded_fields
    ):
        raise invalid_argument("instance_config: a file-list has no fields.")


def read_instances(config: EmulatorConfig, job: v1.BatchPredictionJob) -> list[Instance]:
    """Return the instances of a job; raise ApiError for a file or a line that cannot be read."""
    uris = list(job.input_config.gcs_source.uris)
    contents = [content.decode() for content in artifacts.read_objects(config, uris)]
    if job.input_config.instances_format == "file-list":
        files = [line.strip() for text in contents for line in text.splitlines() if line.strip()]
        values = [_encode(artifacts.read_objects(config, [uri])[0]) for uri in files]
        return [Instance(value, {"instance": value}) for value in values]
    read = read_csv if job.input_config.instances_format == "csv" else _read_jsonl
    rows = [row for text in contents for row in read(text)]
    is_csv = read is read_csv
    return [convert(row, job.instance_config, is_csv=is_csv) for row in rows]


def _encode(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def _read_jsonl(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise failed_precondition(
                    f"Line {number} of the input is not JSON: {error}"
                ) from None


def read_csv(text: str) -> Iterator[dict[str, Any]]:
    """Yield the rows as field → value. A cell without quotation marks is a number."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return
    (header,) = csv.reader(lines[:1])
    for number, line in enumerate(lines[1:], 2):
        try:
            (row,) = csv.reader([line], quoting=csv.QUOTE_NONNUMERIC)
        except ValueError as error:
            what = f"strings need quotation marks, other cells are numbers: {error}"
            raise failed_precondition(f"Line {number} of the input: {what}") from None
        if len(row) != len(header):
            raise failed_precondition(
                f"Line {number} of the input: expected {len(header)} cells, got {len(row)}."
            )
        yield dict(zip(header, row, strict=True))


def convert(row: Any, config: v1.BatchPredictionJob.InstanceConfig, *, is_csv: bool) -> Instance:
    """Return the instance for a row: an object, an array or, in jsonl only, any other value."""
    chosen = list(config.included_fields)
    excluded = {*config.excluded_fields, *filter(None, [config.key_field])}
    if not isinstance(row, dict):
        if chosen or excluded or config.instance_type == "object":
            raise failed_precondition("instance_config: each line of the input must be an object.")
        if config.instance_type == "array" and not isinstance(row, list):
            raise failed_precondition("instance_config: each line of the input must be an array.")
        return Instance(row, {"instance": row})
    if missing := {*chosen, *excluded} - set(row):
        raise failed_precondition(f"instance_config: a line has no field {min(missing)}.")
    kept = {name: row[name] for name in chosen or row if name not in excluded}
    is_array = config.instance_type == "array" or (is_csv and not config.instance_type)
    if is_array and not chosen and not is_csv:
        raise failed_precondition(
            "instance_config: instance_type array needs included_fields, which give the order."
        )
    value = list(kept.values()) if is_array else kept
    if config.key_field:
        return Instance(value, {"key": row[config.key_field]})
    attached = {name: row[name] for name in config.excluded_fields}
    if is_array:
        return Instance(value, {"instance": value, **attached})
    return Instance(value, {"instance": kept | attached})
