"""Batch prediction jobs."""

import functools
import time
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from deploy.errors import Stop
from deploy.google.wire import Wire

OVER = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")


class Batches(Wire):
    """What Vertex AI's job service is asked."""

    def batches(self) -> list[v1.BatchPredictionJob]:
        """Return the region's batch prediction jobs of this model that are not over."""
        found = self._list(self._jobs.list_batch_prediction_jobs, parent=self.settings.location)
        model = f"/models/{self.settings.name}"
        return [
            each
            for each in found
            if each.model.partition("@")[0].endswith(model) and self.batch_state(each) not in OVER
        ]

    def batch_state(self, job: v1.BatchPredictionJob) -> str:
        """Return a job's state, such as RUNNING or SUCCEEDED."""
        return str(v1.JobState(job.state).name).removeprefix("JOB_STATE_")

    def wait_for_batch(self, name: str) -> v1.BatchPredictionJob:
        """Watch a job until it has ended, one way or another, with a line for each change of its state."""
        return self.poll(
            lambda: self._read(self._jobs.get_batch_prediction_job, name=name),
            lambda job: self.batch_state(job) in OVER,
            Stop("the job is not over yet", f"it goes on; its name is {name}"),
            lambda job: self.batch_state(job).lower(),
        )

    def start_batch(
        self, version: str, source: str, output: str, parameters: Any, replicas: int
    ) -> str:
        """Begin a batch prediction job; return its name.

        `source` is gs://… with JSON lines, `output` a gs://… folder.
        """
        machine = v1.MachineSpec(machine_type=self.settings.machine_type)
        job = v1.BatchPredictionJob(
            display_name=f"{self.settings.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            model=f"{self.settings.model}@{version}",
            input_config=v1.BatchPredictionJob.InputConfig(
                instances_format="jsonl", gcs_source=v1.GcsSource(uris=[source])
            ),
            output_config=v1.BatchPredictionJob.OutputConfig(
                predictions_format="jsonl",
                gcs_destination=v1.GcsDestination(output_uri_prefix=output),
            ),
            dedicated_resources=v1.BatchDedicatedResources(
                machine_spec=machine,
                starting_replica_count=replicas,
                max_replica_count=replicas,
            ),
        )
        if parameters is not None:
            job.model_parameters = json_format.ParseDict(parameters, Value())
        request = v1.CreateBatchPredictionJobRequest(
            parent=self.settings.location, batch_prediction_job=job
        )
        begun = self._change("beginning the job", self._jobs.create_batch_prediction_job, request)
        return str(begun.name) if begun is not None else ""

    def cancel_batch(self, name: str) -> None:
        """Ask a batch prediction job to end."""
        request = v1.CancelBatchPredictionJobRequest(name=name)
        self._change("cancelling a batch job", self._jobs.cancel_batch_prediction_job, request)

    @functools.cached_property
    def _jobs(self) -> Any:
        return self._client(v1.JobServiceClient, self._vertex)
