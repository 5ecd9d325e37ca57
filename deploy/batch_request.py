"""A batch prediction job to start: its input, its output, and how records become instances. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deploy.errors import UserError
from deploy.fields.types import BIGQUERY, BUCKET

OBJECT = rf"gs://{BUCKET}/\S[^\r\n]*"
FOLDER = rf"gs://{BUCKET}(/[^\r\n*?]*)?"
TABLE = rf"bq://{BIGQUERY}\.[A-Za-z0-9_]{{1,1024}}\.[A-Za-z0-9_-]{{1,1024}}"
TABLE_OR_LESS = rf"bq://{BIGQUERY}(\.[A-Za-z0-9_]{{1,1024}}(\.[A-Za-z0-9_-]{{1,1024}})?)?"
FORMATS_BY_SUFFIX = {".csv": "csv", ".tfrecord": "tf-record", ".txt": "file-list"}
"""The suffix of an input file → its format; of any other it is JSON lines."""
INPUT_FORMATS = ("jsonl", "csv", "bigquery", "file-list", "tf-record", "tf-record-gzip")
OUTPUT_FORMATS = ("jsonl", "csv", "bigquery")
INSTANCE_TYPES = ("object", "array")
FORMATS_WITH_FIELDS = ("jsonl", "bigquery", "tf-record", "tf-record-gzip")
"""Input formats of which fields can be included or excluded."""
MAX_REPLICAS = 1000


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """A batch prediction job to start."""

    version: str
    sources: Sequence[str]
    """gs:// URIs of files, in which * matches several, or one bq:// URI of a table."""
    input_format: str
    output: str
    """The gs:// URI of a folder, or the bq:// URI of a project, a data set or a new table."""
    output_format: str
    parameters: Any = None
    instance_type: str = ""
    included_fields: Sequence[str] = ()
    excluded_fields: Sequence[str] = ()
    key_field: str = ""
    replicas: int = 1
    batch_size: int = 0
    """Instances in each request to a replica; 0: Google's default."""


def choose_input_format(sources: Sequence[str], given: str) -> str:
    """Return the format of the input; raise UserError if a URI does not fit it, or is none."""
    of_table = [uri.startswith("bq://") for uri in sources]
    by_name = FORMATS_BY_SUFFIX.get(PurePosixPath(sources[0]).suffix, "jsonl")
    chosen = given or ("bigquery" if of_table[0] else by_name)
    for uri in sources:
        if chosen == "bigquery" and (len(sources) > 1 or not re.fullmatch(TABLE, uri)):
            raise _invalid("--input", uri, "one table, bq://PROJECT.DATASET.TABLE")
        if chosen != "bigquery" and not re.fullmatch(OBJECT, uri):
            raise _invalid("--input", uri, "gs://BUCKET/FILE, or bq://PROJECT.DATASET.TABLE")
    return chosen


def choose_output_format(output: str, given: str) -> str:
    """Return the format of the output; raise UserError if the URI does not fit it, or is none."""
    chosen = given or ("bigquery" if output.startswith("bq://") else "jsonl")
    if chosen == "bigquery" and not re.fullmatch(TABLE_OR_LESS, output):
        raise _invalid(
            "--output", output, "bq://PROJECT, bq://PROJECT.DATASET or a new table of it"
        )
    if chosen != "bigquery" and not re.fullmatch(FOLDER, output):
        raise _invalid("--output", output, "gs://BUCKET/FOLDER, or bq://PROJECT.DATASET")
    return chosen


def check_fields(request: BatchRequest) -> None:
    """Raise UserError for options that Google would ignore or refuse with this input."""
    given = {
        "--instance-type": request.instance_type,
        "--include-fields": request.included_fields,
        "--exclude-fields": request.excluded_fields,
        "--key-field": request.key_field,
    }
    used = [option for option, value in given.items() if value]
    kind = request.input_format
    if request.included_fields and request.excluded_fields:
        hint = "name the fields to include, or those to exclude"
        raise UserError("--include-fields and --exclude-fields exclude each other", hint)
    if used and kind == "file-list":
        hint = "each file of a list is one instance without fields: omit the option"
        raise UserError(f"{used[0]} does not apply to the input format {kind}", hint)
    if (request.included_fields or request.excluded_fields) and kind not in FORMATS_WITH_FIELDS:
        hint = f"it applies to {', '.join(FORMATS_WITH_FIELDS)}; of a CSV file --key-field excludes one column"
        raise UserError(f"{used[-1]} does not apply to the input format {kind}", hint)


def _invalid(option: str, uri: str, expected: str) -> UserError:
    return UserError(
        f"{option}: {uri!r} should be {expected}", "Vertex AI reads and writes only there"
    )
