"""The commands that change which version serves: endpoint, deploy, canary, promote, rollback."""

import math
from pathlib import Path

from deploy import builder, plan, predict, versions
from deploy.canary_analysis import DEFAULT_ERROR_RATE, Limits, check_options, watch_canary
from deploy.clients import CloudClients
from deploy.cost import estimate_cost
from deploy.errors import UserError
from deploy.plan import DEPLOYMENT_TIME, EndpointState, Goal
from deploy.quota import describe_need
from deploy.reconcile import (
    check_endpoint,
    configure_endpoint,
    get_or_create_endpoint,
    reconcile,
)
from deploy.registry import find_image
from deploy.roles import GRANTED_BY_PROJECT, REQUIRED, grant_command


def deploy_all(cloud: CloudClients, request: Path | None) -> None:
    """Build, upload, create and deploy what is missing, and send the endpoint the model's requests."""
    if request is not None:
        # Raises the error of an invalid file before anything starts.
        predict.build_request(cloud.settings.sources, request)
    check_endpoint(cloud)
    image = find_image(cloud)
    check_permissions(cloud, needs_image=image is None)
    _report_outlook(cloud, needs_image=image is None)
    _deploy(cloud, versions.ensure_uploaded(cloud))
    if not cloud.dry_run:
        predict.smoke_test(cloud, request)


def deploy(cloud: CloudClients, version: str) -> None:
    """Route all traffic to a version."""
    check_endpoint(cloud)
    _deploy(cloud, versions.choose(cloud, version))


def canary(  # noqa: PLR0913  one parameter for each option
    cloud: CloudClients,
    *,
    version: str,
    traffic: int,
    watch: float | None,
    max_error_rate: float | None,
    max_p95: float | None,
) -> None:
    """Route `traffic` percent to a version, and `watch` it for that many minutes, if given."""
    check_options(watch, max_error_rate, max_p95, is_emulator=bool(cloud.settings.api_endpoint))
    plan.check_has_primary(cloud.vertex.endpoint_state() or EndpointState())
    check_endpoint(cloud)
    version = versions.choose(cloud, version)
    state = configure_endpoint(cloud, get_or_create_endpoint(cloud))
    if not reconcile(cloud, plan.canary(state, version, traffic), state):
        cloud.report(f"version {version} already gets {traffic} % of the traffic: nothing changed")
    if watch is None or cloud.dry_run:
        cloud.report("next: make promote, or make rollback")
        return
    limits = Limits(
        minutes=watch,
        error_rate=DEFAULT_ERROR_RATE if max_error_rate is None else max_error_rate,
        p95_ms=math.inf if max_p95 is None else max_p95,
    )
    violation = watch_canary(cloud, version, limits)
    if violation is None:
        cloud.report(f"version {version} stayed within the limits; next: make promote")
        return
    cloud.report(f"version {version}: {violation}; rolling back")
    rollback(cloud)
    raise UserError(f"the canary was rolled back: {violation}", "make status")


def promote(cloud: CloudClients) -> None:
    """Route all traffic to the canary; the previous version stays deployed for a fast rollback."""
    state = get_or_create_endpoint(cloud)
    goal = plan.promote(state)
    if goal is None:
        cloud.report(f"version {state.primary} already serves all traffic: nothing changed")
    else:
        reconcile(cloud, goal, state)
        _report_serving(cloud, goal.version)


def rollback(cloud: CloudClients) -> None:
    """Route all traffic to the previous version, and undeploy the other."""
    if cloud.vertex.endpoint_state() is None:
        s = cloud.settings
        raise UserError(f"endpoint {s.name} does not exist in {s.region}", "make deploy-endpoint")
    state = get_or_create_endpoint(cloud)
    goal = plan.rollback(state)
    if reconcile(cloud, goal, state):
        cloud.report(f"version {goal.version} serves all traffic again")
        return
    cloud.report(f"version {goal.version} already serves all traffic: nothing changed")
    older = [version for version in state.history if version != goal.version][:1]
    if older:
        cloud.report(
            f"  to go further back: .venv/bin/python -m deploy deploy --version {older[0]}"
        )


def _report_outlook(cloud: CloudClients, *, needs_image: bool) -> None:
    """Report how long a first deployment takes, what it costs, and the quota that new accelerators need."""
    s, deployed = cloud.settings, (cloud.vertex.endpoint_state() or EndpointState()).deployed
    is_new = all(model.machine.accelerator_type != s.accelerator_type for model in deployed)
    if is_new and (need := describe_need(s)):
        cloud.report(need)
    if deployed:
        return
    build = f"the image ({builder.describe(cloud)}), " if needs_image else ""
    cost = estimate_cost([(s.machine, s.min_replicas)])
    cloud.report(
        f"a first deployment: {build}the model (a minute), the endpoint (seconds), {s.min_replicas or 1} x "
        f"{s.machine_type} ({DEPLOYMENT_TIME})\n  cost from then on, until make teardown: {cost}"
    )


def check_permissions(cloud: CloudClients, *, needs_image: bool) -> None:
    """Raise UserError for missing permissions before anything is started that takes minutes.

    Permissions that a repository or a bucket may grant are only reported.
    """
    s = cloud.settings
    required = [*REQUIRED["upload"], *REQUIRED["deploy"], *REQUIRED["predict"]]
    if needs_image:
        required += [*REQUIRED["push"], *REQUIRED["repository"]]
        required += REQUIRED["build"] if builder.choose(cloud) == "cloud" else ()
    missing = cloud.iam.missing_permissions(required)
    fatal = [permission for permission in missing if permission.startswith(GRANTED_BY_PROJECT)]
    if fatal:
        caller = cloud.client.account
        commands = dict.fromkeys(
            grant_command(s.project, permission, caller) for permission in fatal
        )
        who = f" for {caller}" if caller else ""
        reason = f"permissions are missing in {s.project}{who}: {', '.join(fatal)}"
        raise UserError(reason, "\n  ".join(commands))
    for permission in missing:
        cloud.report(
            f"the project does not grant {permission}; the repository or the bucket has to grant it"
        )


def _deploy(cloud: CloudClients, version: str) -> None:
    state = configure_endpoint(cloud, get_or_create_endpoint(cloud))
    if reconcile(cloud, Goal("deploy", version), state):
        _report_serving(cloud, version)
    else:
        cloud.report(f"version {version} already serves all traffic: nothing changed")


def _report_serving(cloud: CloudClients, version: str) -> None:
    if cloud.dry_run:
        s = cloud.settings
        cost = estimate_cost([(s.machine, s.min_replicas)])
        cloud.report(f"version {version} would serve all traffic\n  cost of this version: {cost}")
        return
    cloud.report(f"version {version} serves all traffic")
    deployed = (cloud.vertex.endpoint_state() or EndpointState()).deployed
    cost = estimate_cost((model.machine, model.replicas.minimum) for model in deployed)
    cloud.report(f"  cost: {cost}; to end it: make teardown")
    if idle := [model.version for model in deployed if model.version != version]:
        cloud.report(
            f"  this includes version {idle[0]}, kept for a fast rollback; to end it: make undeploy ARGS=--idle"
        )
