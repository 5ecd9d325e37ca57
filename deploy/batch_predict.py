"""Batch predictions: a job over JSON lines in Cloud Storage."""

from typing import Any

from deploy import versions
from deploy.clients import CloudClients
from deploy.errors import UserError


def run_batch(  # noqa: PLR0913  one parameter for each option
    cloud: CloudClients, *, source: str, output: str, parameters: Any, version: str, replicas: int
) -> None:
    """Predict every line of a JSONL file, wait for the job's end, and report the results' folder."""
    from deploy.gcp.vertex import BatchRequest, job_state  # noqa: PLC0415  slow: Google's libraries

    for uri in (source, output):
        if not uri.startswith("gs://"):
            hint = "expected gs://BUCKET/PATH: Vertex AI reads and writes only there"
            raise UserError(f"{uri} is not in Cloud Storage", hint)
    version = versions.choose(cloud, version)
    name = cloud.vertex.start_batch_job(
        BatchRequest(
            version=version, source=source, output=output, parameters=parameters, replicas=replicas
        )
    )
    if cloud.dry_run:
        return
    job_id = name.rpartition("/")[2]
    cloud.report(f"→ job {job_id} (usually 10 minutes or more; it continues after Ctrl-C)")
    job = cloud.vertex.wait_for_batch_job(name)
    state, stats = job_state(job), job.get("completionStats", {})
    if state != "SUCCEEDED":
        hint = "run .venv/bin/python -m deploy batch-predict with the same arguments again"
        raise UserError(
            f"the job ended as {state.lower()}: {job.get('error', {}).get('message', '')}", hint
        )
    cloud.report(
        f"{stats.get('successfulCount', 0)} succeeded, {stats.get('failedCount', 0)} failed; "
        f"results: {job['outputInfo']['gcsOutputDirectory']}"
    )
