"""Name the settings of TorchServe that have no effect here, for the log: variables, and keys of model-config.yaml."""

from collections.abc import Iterator, Mapping

from serving import artifact, model_config
from serving.artifact import Artifact

INSTEAD = {
    "TS_BATCH_SIZE": "batchSize in the archive's model-config.yaml",
    "TS_CONFIG_FILE": "the variables of docs/container.md",
    "TS_DEFAULT_RESPONSE_TIMEOUT": "RESPONSE_TIMEOUT_S",
    "TS_INFERENCE_ADDRESS": "AIP_HTTP_PORT",
    "TS_INSTALL_PY_DEP_PER_MODEL": "requirements.txt when the image is built",
    "TS_MAX_REQUEST_SIZE": "MAX_REQUEST_BYTES",
    "TS_MODEL_STORE": "AIP_STORAGE_URI",
    "TS_SERVICE_ENVELOPE": "SERVICE_ENVELOPE",
}
"""What replaces a variable of TorchServe."""


def describe_ignored_settings(served: Artifact, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each setting that is not followed; raise ArchiveError."""
    for name in sorted(environ):
        if name.startswith("TS_"):
            hint = f"; use {INSTEAD[name]}" if name in INSTEAD else ""
            yield f"{name} is not followed: TorchServe is configured by this project{hint}"
    text = artifact.read_model_config(served)
    for reason in model_config.list_ignored_keys(text, is_stock=served.stock):
        yield f"{model_config.CONFIG.name}: {reason}"
