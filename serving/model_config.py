"""The layout that `make tune` found: model-config.yaml in an archive, with TorchServe's keys."""

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from serving.errors import ArchiveError
from serving.layout import (
    Layout,
    Machine,
    choose_layout,
    describe_gpus,
    join_names,
    max_workers,
)
from serving.stock.manifest import LAST_RESPONSE_TIMEOUT_S

CONFIG = PurePosixPath("model-config.yaml")
"""The path in the archive. The manifest does not name it: TorchServe would use it on any machine."""
OLD_CONFIG = PurePosixPath("model/model-config.yaml")
"""The path in archives of version 0.1."""
KEYS = ("minWorkers", "batchSize", "maxBatchDelay", "threads", "cores")
"""TorchServe's keys and two of this project; a layout is valid only for its number of cores."""
GPU_KEYS = ("gpus", "gpu")
"""The number and the names of the GPUs, if the layout was found on some; it is valid only for the same ones."""

STOCK_KEYS = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")
"""Keys of a stock archive that are followed if they are integers above 0, as in TorchServe."""
IGNORED_KEYS = (
    *("jobQueueSize", "clientTimeoutInMills", "useJobTicket", "asyncCommunication"),
    *("continuousBatching", "sequenceBatching", "maxNumSequence", "maxSequenceJobQueueSize"),
    *("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "parallelType", "parallelLevel", "torchrun"),
    "deviceIds",
)
"""TorchServe's keys about a queue of requests, several processes for one model, or the choice of GPUs, which are not
used here."""


class ModelConfigError(ArchiveError):
    """The file is not one that `make tune` writes."""


class TunedLayout(NamedTuple):
    """A layout and the machine that it was found on."""

    layout: Layout
    cores: int
    gpus: int
    """The number of GPUs; 0: it was found on the CPU."""
    gpu: str
    """The names of the GPUs."""

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has the same number of cores and the same GPUs."""
        return self[1:] == (machine.cores, len(machine.gpus), join_names(machine.gpus))

    def describe_machine(self, machine: Machine) -> str:
        """Return the machine that the layout is for, and its GPUs if they or those of `machine` matter."""
        cores = f"{self.cores} cores"
        if not (self.gpus or machine.gpus):
            return cores
        return f"{cores} and {describe_gpus(self.gpus, self.gpu)}"


def render(layout: Layout, machine: Machine, measured: dict[str, Any]) -> str:
    """Return the text of the file for a machine; `measured` is included for information."""
    import yaml  # noqa: PLC0415  slow to import, and most archives have no such file

    settings: dict[str, Any] = {
        "minWorkers": layout.workers,
        "maxWorkers": layout.workers,
        "batchSize": layout.batch_size,
        "maxBatchDelay": layout.batch_delay_ms,
        "threads": layout.threads,
        "cores": machine.cores,
    }
    if machine.gpus:
        settings |= {"gpus": len(machine.gpus), "gpu": join_names(machine.gpus)}
    text: str = yaml.safe_dump({**settings, "measured": measured}, sort_keys=False)
    return (
        f"# Written by make tune; used on machines with {machine}. maxBatchDelay is in ms.\n{text}"
    )


def parse(text: str | bytes) -> TunedLayout:
    """Return the layout of a file and the machine that it is for; raise ModelConfigError."""
    config = _load(text)
    values = {key: config.get(key) for key in KEYS}
    if any(key in config for key in GPU_KEYS):
        values["gpus"] = config.get("gpus")
        if not isinstance(config.get("gpu"), str):
            raise ModelConfigError(
                f"{CONFIG.name}: gpu: expected the name of a GPU, got {config.get('gpu')}"
            )
    _check_integers(values)
    workers, batch, delay, threads, cores = (config[key] for key in KEYS)
    layout = Layout(workers, threads, batch, delay, CONFIG.name)
    return TunedLayout(layout, cores, config.get("gpus", 0), config.get("gpu", ""))


def _check_integers(values: dict[str, Any]) -> None:
    for key, value in values.items():
        minimum = 0 if key == "maxBatchDelay" else 1
        if type(value) is not int or value < minimum:
            raise ModelConfigError(
                f"{CONFIG.name}: {key}: expected an integer of at least {minimum}, got {value}"
            )


def read_response_timeout(text: str | bytes | None) -> int | None:
    """Return the file's own `responseTimeout` in seconds, None if it has none; raise ModelConfigError."""
    config = _load(text)
    if "responseTimeout" not in config:
        return None
    _check_integers({"responseTimeout": config["responseTimeout"]})
    return int(config["responseTimeout"])


def resolve_stock_settings(text: bytes | None, default: Layout) -> tuple[Layout, int | None]:
    """Return the layout and the time for a response of a stock archive; raise ModelConfigError.

    Without a batchSize of its own, a stock handler may answer only the first request of a batch.
    """
    config = _load(text)
    own = {key: config[key] for key in STOCK_KEYS if _is_positive(config.get(key))}
    batch_size, delay_ms = own.get("batchSize", 1), own.get("maxBatchDelay", 0)
    layout = default._replace(batch_size=batch_size, batch_delay_ms=delay_ms)
    workers = own.get("minWorkers", 0)
    if 0 < workers <= own.get("maxWorkers", 0):  # TorchServe follows both or none
        threads = max(default.workers * default.threads // workers, 1)
        layout = layout._replace(workers=workers, threads=threads)
    timeout_s = own.get("responseTimeout")
    return layout, None if timeout_s == LAST_RESPONSE_TIMEOUT_S else timeout_s


def needs_cpu(text: bytes | None) -> bool:
    """Return whether a stock archive uses the CPU even if the machine has a GPU; raise ModelConfigError."""
    return str(_load(text).get("deviceType")).lower() == "cpu"


def list_ignored_keys(text: bytes | None, *, is_stock: bool) -> list[str]:
    """Return a text for each key that is not followed; raise ModelConfigError."""
    config = _load(text)
    reasons = [f"{key} is not followed" for key in IGNORED_KEYS if key in config]
    if is_stock:
        invalid = [k for k in STOCK_KEYS if k in config and not _is_positive(config[k])]
        reasons += [
            f"{k} is not followed: expected an integer above 0, got {config[k]}" for k in invalid
        ]
    elif "cores" not in config:
        reasons += [
            f"{key} is not followed: the number of cores is what the workers are chosen by"
            for key in ("minWorkers", "maxWorkers")
            if key in config
        ]
    return reasons


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def describe_yaml_error(name: str, error: Exception) -> str:
    """Return what is wrong in a file, and in which line, of an error of the YAML parser."""
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}" if mark else name
    return f"{place}: not YAML: {' '.join(str(getattr(error, 'problem', error)).split())}"


def _load(text: str | bytes | None) -> dict[str, Any]:
    """Return the keys of a file, none if there is no file; raise ModelConfigError."""
    if not text:
        return {}
    import yaml  # noqa: PLC0415  slow to import, and most archives have no such file

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelConfigError(describe_yaml_error(CONFIG.name, error)) from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ModelConfigError(f"{CONFIG.name}: expected a mapping")
    return config


def resolve_layout(
    text: str | bytes | None, machine: Machine, inference_ms: float, model_bytes: int = 0
) -> Layout:
    """Return the tuned layout if it fits the machine, else the default; raise ModelConfigError and LayoutError.

    `text` is the file's, None if there is none; the other parameters are those of choose_layout.
    """
    default = choose_layout(machine, inference_ms, model_bytes)
    if text is None:
        return default
    config = _load(text)
    if "cores" not in config:  # TorchServe's own keys, of an author
        own: dict[str, Any] = {key: config[key] for key in KEYS if key in config}
        _check_integers(own)
        return default._replace(
            batch_size=own.get("batchSize", default.batch_size),
            batch_delay_ms=own.get("maxBatchDelay", default.batch_delay_ms),
        )
    tuned = parse(text)
    if not tuned.fits(machine):
        reason = f"is for {tuned.describe_machine(machine)}"
    elif tuned.layout.workers > max_workers(machine, model_bytes):
        reason = "needs more memory"
    else:
        return tuned.layout
    return default._replace(source=f"{default.source}, {CONFIG.name} {reason}")
