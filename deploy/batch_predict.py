"""Batch predictions: a job over files in Cloud Storage or a table in BigQuery."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from deploy import versions
from deploy.batch_request import (
    BatchRequest,
    check_fields,
    choose_input_format,
    choose_output_format,
)
from deploy.clients import CloudClients
from deploy.errors import PermissionDeniedError, UserError


def run_batch(  # noqa: PLR0913  one parameter for each option
    cloud: CloudClients,
    *,
    sources: Sequence[str],
    input_format: str,
    output: str,
    output_format: str,
    parameters: Any,
    instance_type: str,
    included_fields: Sequence[str],
    excluded_fields: Sequence[str],
    key_field: str,
    version: str,
    replicas: int,
    batch_size: int,
) -> None:
    """Predict every instance of the input, wait for the job's end, and report where the results are."""
    from deploy.gcp.vertex import job_state  # noqa: PLC0415  slow: Google's libraries

    request = BatchRequest(
        version=version,
        sources=sources,
        input_format=choose_input_format(sources, input_format),
        output=output,
        output_format=choose_output_format(output, output_format),
        parameters=parameters,
        instance_type=instance_type,
        included_fields=included_fields,
        excluded_fields=excluded_fields,
        key_field=key_field,
        replicas=replicas,
        batch_size=batch_size,
    )
    check_fields(request)
    if not cloud.dry_run:
        _check_input(cloud, sources)
    name = cloud.vertex.start_batch_job(
        dataclasses.replace(request, version=versions.choose(cloud, version))
    )
    if cloud.dry_run:
        return
    job_id = name.rpartition("/")[2]
    cloud.report(
        f"→ batch prediction job {job_id} (usually 10 minutes or more; it continues after Ctrl-C)"
    )
    job = cloud.vertex.wait_for_batch_job(name)
    state, stats = job_state(job), job.get("completionStats", {})
    for failure in job.get("partialFailures", ()):
        cloud.report(f"  not read: {failure.get('message', '')}")
    if state != "SUCCEEDED":
        hint = (
            "check that each --input exists and that Vertex AI's service agent can read it, "
            "then run the same command again"
        )
        message = job.get("error", {}).get("message", "")
        raise UserError(f"the job ended as {state.lower()}: {message}", hint)
    info = job.get("outputInfo", {})
    table = [
        info[name] for name in ("bigqueryOutputDataset", "bigqueryOutputTable") if name in info
    ]
    cloud.report(
        f"{stats.get('successfulCount', 0)} succeeded, {stats.get('failedCount', 0)} failed; "
        f"results: {info.get('gcsOutputDirectory') or '.'.join(table)}"
    )


def _check_input(cloud: CloudClients, sources: Sequence[str]) -> None:
    """Raise UserError for input that does not exist: the job would find that after ten minutes."""
    for uri in (uri for uri in sources if uri.startswith("gs://")):
        try:
            found = cloud.storage.find_prefix(uri.partition("*")[0])
        except PermissionDeniedError as error:
            cloud.report(f"{uri} is not checked: {error.message}")
            continue
        if not found:
            missing = "no object has this name" if found is False else "the bucket does not exist"
            hint = f"gcloud storage ls {uri.rpartition('/')[0]}/ lists what is there"
            raise UserError(f"--input: {uri!r}: {missing}", hint)
