"""Names the quotas of accelerators for serving, and the page where more is requested. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator

from deploy.machines import load_table
from deploy.plan import DeployedModel, Machine
from deploy.settings import Settings

SERVICE = "aiplatform.googleapis.com"
PAGE = "https://console.cloud.google.com/iam-admin/quotas"


def describe_need(settings: Settings) -> str:
    """Return which quota the accelerators of the settings need, and where to request it; "" without accelerators."""
    s = settings
    count = s.replicas.maximum * s.accelerator_count
    if not count:
        return ""
    return (
        f"quota: at least {count} of {_name(s.machine)} in {s.region} (max_replicas x accelerator_count; "
        f"a new project has none): {quota_page(s.project, _metric(s.machine))}"
    )


def describe_usage(deployed: Iterable[DeployedModel]) -> Iterator[str]:
    """Yield a line for each quota of accelerators that deployed models use at their maximum numbers of replicas."""
    used: Counter[str] = Counter()
    for model in deployed:
        if model.machine.accelerator_count:
            count = model.machine.accelerator_count * model.replicas.maximum
            used[_name(model.machine)] += count
    for name, count in used.items():
        yield f"quota: up to {count} of {name}"


def quota_page(project: str, metric: str = "") -> str:
    """Return the address of the console's page with a quota, or with all those of Vertex AI."""
    selection = f"metric={SERVICE}%2F{metric}" if metric else f"service={SERVICE}"
    return f"{PAGE}?project={project}&{selection}"


def _metric(machine: Machine) -> str:
    return load_table().find_quota(machine.accelerator_type, spot=machine.spot)


def _name(machine: Machine) -> str:
    return _metric(machine) or f"the quota of {machine.accelerator_type} for serving"
