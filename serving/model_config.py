"""What make tune found for a model: a model-config.yaml in its archive, in TorchServe's words."""

from pathlib import PurePosixPath
from typing import Any

import yaml

from serving.errors import ArchiveError
from serving.layout import Layout, choose_layout, max_workers

CONFIG = PurePosixPath("model/model-config.yaml")
"""In the archive. It is not declared to TorchServe, which would follow it on any machine."""
KEYS = ("minWorkers", "batchSize", "maxBatchDelay", "threads", "cores")
"""TorchServe's own, and two of ours: a layout is right only for the cores it was measured on."""


class ModelConfigError(ArchiveError):
    """The file is not what make tune writes."""


def render(found: Layout, cores: int, measured: dict[str, Any]) -> str:
    """Return the text of the file; `measured` is kept in it to be read by people."""
    settings = {
        "minWorkers": found.workers,
        "maxWorkers": found.workers,
        "batchSize": found.batch_size,
        "maxBatchDelay": found.batch_delay_ms,
        "threads": found.threads,
        "cores": cores,
    }
    text: str = yaml.safe_dump({**settings, "measured": measured}, sort_keys=False)
    return f"# By make tune; followed where there are {cores} cores. maxBatchDelay in ms.\n{text}"


def parse(text: str | bytes) -> tuple[Layout, int]:
    """Return the layout in a file and the cores it is for; raise BadConfig."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelConfigError(f"{CONFIG.name} is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise ModelConfigError(f"{CONFIG.name}: expected a mapping")
    for key in KEYS:
        least = 0 if key == "maxBatchDelay" else 1
        if type(config.get(key)) is not int or config[key] < least:
            raise ModelConfigError(
                f"{CONFIG.name}: {key}: expected an integer from {least} on, got {config.get(key)}"
            )
    workers, batch, delay, threads, cores = (config[key] for key in KEYS)
    return Layout(workers, threads, batch, delay, CONFIG.name), cores


def resolve_layout(
    text: str | bytes | None, cores: int, memory: int | None, pass_ms: float
) -> Layout:
    """Return the tuned layout where it fits the machine, else the default; raise BadConfig.

    `text` is the file's, None where there is none; the rest is as for machine.layout.
    """
    default = choose_layout(cores, memory, pass_ms)
    if text is None:
        return default
    found, tuned_for = parse(text)
    if tuned_for != cores:
        return default._replace(source=f"default, {CONFIG.name} is for {tuned_for} cores")
    if found.workers > max_workers(cores, memory):
        return default._replace(source=f"default, {CONFIG.name} needs more memory")
    return found
