"""What runs at Google beside the endpoint, and costs until it ends: builds, batch jobs, pipelines, functions.

These are requests in JSON: their client libraries would take seconds to import.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy import cloud_build
from deploy.errors import UserError
from deploy.gcp.client import Client

FINAL_STATES = (*cloud_build.FINAL_STATES, "SUCCEEDED", "FAILED", "PARTIALLY_SUCCEEDED")
"""States of builds, batch prediction jobs and pipeline jobs that have ended."""
RPCS = {
    "build": "CloudBuild.CancelBuild",
    "batch prediction job": "JobService.CancelBatchPredictionJob",
    "pipeline job": "PipelineService.CancelPipelineJob",
}


@dataclass(frozen=True)
class Job:
    """A build, a batch prediction job or a pipeline job."""

    kind: str
    """A key of RPCS."""
    url: str
    state: str
    """Such as RUNNING."""
    created: str
    """ISO 8601"""
    content: dict[str, Any]
    """Google's JSON."""

    def __str__(self) -> str:
        return f"{self.kind} {self.url.rpartition('/')[2]}"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES


class Jobs:
    """A client for the jobs, the schedules and the function of the model's name."""

    def __init__(self, client: Client) -> None:
        self._client, self._settings = client, client.settings

    # Jobs

    def list_running(self, kind: str) -> list[Job]:
        """Return the jobs of a kind and of this name that have not ended."""
        lists = {
            "build": self._list_builds,
            "batch prediction job": self._list_batch_jobs,
            "pipeline job": self._list_pipeline_jobs,
        }
        return [job for job in lists[kind]() if not job.is_final]

    def cancel(self, job: Job) -> None:
        """Request the cancellation of a job; nothing happens if it has ended meanwhile."""
        if self._client.dry_run or not self._fetch(job).is_final:
            action = f"cancelling the {job}"
            self._client.change(RPCS[job.kind], "POST", f"{job.url}:cancel", action, {})

    def wait(self, job: Job) -> Job:
        """Wait until a job ends in whatever state; report each state, and return the job."""
        minutes = self._settings.wait_minutes
        late = f"the {job} was cancelled, but has not ended after {minutes} minutes: Google still ends it"
        return self._client.poll(
            lambda: self._fetch(job),
            lambda current: current.is_final,
            UserError(late, "make status shows its state; then run the same command again"),
            lambda current: f"waiting for the {job}: {current.state.lower()}",
        )

    def _fetch(self, job: Job) -> Job:
        content = self._client.get(job.url)
        return _parse(job.kind, job.url, content or {"state": "EXPIRED"})

    def list_builds(self, **parameters: Any) -> list[Any]:
        """Return the builds in the region, the newest first."""
        return self._client.list_all(self._builds_url, "builds", **parameters)

    def find_build(self, build_id: str) -> Any:
        """Return a build."""
        return self._client.get(f"{self._builds_url}/{build_id}") or {"status": "EXPIRED"}

    def _list_builds(self) -> Iterator[Job]:
        """Yield the builds of this name in the region, and those without a region that deploy to this one."""
        s = self._settings
        for location in (s.region, "global"):
            url = (
                f"{self._client.url('cloudbuild')}/projects/{s.project}/locations/{location}/builds"
            )
            for build in self._client.list_all(url, "builds", filter=cloud_build.ONGOING):
                target = build.get("substitutions", {}).get("_REGION", s.region)
                if _is_of_name(build, s.name) and (location != "global" or target == s.region):
                    yield _parse("build", f"{url}/{build['id']}", build)

    def _list_batch_jobs(self) -> Iterator[Job]:
        suffix = f"/models/{self._settings.name}"
        for job in self._list_vertex("batchPredictionJobs"):
            if job.get("model", "").partition("@")[0].endswith(suffix):
                yield _parse("batch prediction job", self._vertex_url(job["name"]), job)

    def _list_pipeline_jobs(self) -> Iterator[Job]:
        for job in self._list_vertex("pipelineJobs", filter=self._has_name):
            yield _parse("pipeline job", self._vertex_url(job["name"]), job)

    # Schedules of pipelines

    def list_schedules(self) -> list[str]:
        """Return the resource names of the pipeline schedules of this name."""
        return [each["name"] for each in self._list_vertex("schedules", filter=self._has_name)]

    def delete_schedule(self, name: str) -> None:
        """Delete a schedule; jobs that it has started continue."""
        action = f"deleting the schedule {name.rpartition('/')[2]}"
        rpc = "ScheduleService.DeleteSchedule"
        self._client.run_operation(rpc, "DELETE", self._vertex_url(name), action)

    # The function

    def has_function(self) -> bool:
        """Return whether there is a function of this name, or one is being deployed."""
        return bool(self._client.get(self._function_url) or self._list_function_operations())

    def delete_function(self) -> None:
        """Delete the function; first wait for the end of its deployment, which cannot be cancelled."""
        name, url = self._settings.name, self._function_url
        base = self._client.url("cloudfunctions", "v2")
        for operation in self._list_function_operations() if not self._client.dry_run else ():
            with contextlib.suppress(
                UserError
            ):  # a failed deployment: the function is deleted all the same
                self._client.wait(f"{base}/{operation}", f"waiting for the function {name}")
        if self._client.dry_run or self._client.get(url):
            rpc = "FunctionService.DeleteFunction"
            self._client.run_operation(rpc, "DELETE", url, f"deleting the function {name}")

    def _list_function_operations(self) -> list[str]:
        """Return the names of the operations on the function that have not ended."""
        base, location = self._client.url("cloudfunctions", "v2"), self._settings.location
        suffix = f"/functions/{self._settings.name}"
        return [
            operation["name"]
            for operation in self._client.list_all(f"{base}/{location}/operations", "operations")
            if not operation.get("done")
            and operation.get("metadata", {}).get("target", "").endswith(suffix)
        ]

    # Requests

    def _list_vertex(self, collection: str, **parameters: Any) -> list[dict[str, Any]]:
        url = self._vertex_url(f"{self._settings.location}/{collection}")
        return self._client.list_all(url, collection, **parameters)

    def _vertex_url(self, name: str) -> str:
        return f"{self._client.url(f'{self._settings.region}-aiplatform')}/{name}"

    @property
    def _builds_url(self) -> str:
        return f"{self._client.url('cloudbuild')}/{self._settings.location}/builds"

    @property
    def _has_name(self) -> str:
        return f'display_name="{self._settings.name}"'

    @property
    def _function_url(self) -> str:
        base, location = self._client.url("cloudfunctions", "v2"), self._settings.location
        return f"{base}/{location}/functions/{self._settings.name}"


def _parse(kind: str, url: str, content: dict[str, Any]) -> Job:
    state = content.get("status") or content.get("state", "")
    short = state.rpartition("_STATE_")[2] or state
    return Job(kind, url, short, content.get("createTime", ""), content)


def _is_of_name(build: dict[str, Any], name: str) -> bool:
    """Return whether a build makes the image of a name: by its substitutions, or by the image's path."""
    substitutions = build.get("substitutions", {})
    named = substitutions.get("_NAME", "${_MODEL}")
    if (substitutions.get("_MODEL", "") if named == "${_MODEL}" else named) == name:
        return True
    return any(image.rpartition(":")[0].endswith(f"/{name}") for image in build.get("images", ()))
