"""Features that only v1beta1 of Vertex AI has: scale to zero and rolling deployments.

Messages are of v1; the fields of v1beta1 are among their unknown fields.
"""

from typing import NamedTuple

from google.cloud import aiplatform_v1 as v1
from google.protobuf.unknown_fields import UnknownFieldSet

from emulator.endpoints import find_deployed
from emulator.errors import invalid_argument
from emulator.transcoding import to_beta, to_v1

DEFAULT_PERIOD_S = 3600.0


class ScaleToZero(NamedTuple):
    """When a deployed model without traffic loses its replicas."""

    idle_s: float
    """Time without a request."""
    min_up_s: float
    """Time since the replicas were started."""


def initial_count(resources: v1.DedicatedResources) -> int:
    """Return the number of replicas to start; raise ApiError."""
    if resources.min_replica_count:
        return resources.min_replica_count
    count = int(to_beta(resources).initial_replica_count)
    if count > (resources.max_replica_count or count):
        raise invalid_argument("initial_replica_count must not be greater than max_replica_count.")
    return count


def read_scale_to_zero(resources: v1.DedicatedResources, max_idle_s: float) -> ScaleToZero | None:
    """Return when the replicas are stopped; None if at least one always runs."""
    if resources.min_replica_count:
        return None
    spec = to_beta(resources).scale_to_zero_spec
    periods = (spec.idle_scaledown_period, spec.min_scaleup_period)
    return ScaleToZero(
        *(min(p.total_seconds() if p else DEFAULT_PERIOD_S, max_idle_s) for p in periods)
    )


def find_replaced(
    endpoint: v1.Endpoint, deployed: v1.DeployedModel, model: v1.Model
) -> v1.DeployedModel | None:
    """Return the deployed model that a rolling deployment replaces; raise ApiError."""
    if not UnknownFieldSet(v1.DeployedModel.pb(deployed)):
        return None
    previous_id = to_beta(deployed).rollout_options.previous_deployed_model
    if not previous_id:
        return None
    previous = find_deployed(endpoint, previous_id)
    if previous.model.partition("@")[0] != model.name:
        raise invalid_argument(
            f"A rolling deployment replaces a version of the same model; {previous_id} is of {previous.model}."
        )
    return previous


def prepare_rollout(deployed: v1.DeployedModel, previous: v1.DeployedModel) -> v1.DeployedModel:
    """Return the new deployed model of a rolling deployment: it takes over the resources and settings."""
    machine = previous.dedicated_resources.machine_spec
    if "dedicated_resources" in deployed and deployed.dedicated_resources.machine_spec != machine:
        raise invalid_argument("A rolling deployment cannot change dedicated_resources.")
    deployed.dedicated_resources = previous.dedicated_resources
    deployed.service_account = deployed.service_account or previous.service_account
    beta = to_beta(deployed)
    beta.rollout_options.revision_number = to_beta(previous).rollout_options.revision_number + 1
    result: v1.DeployedModel = to_v1(beta)
    return result
