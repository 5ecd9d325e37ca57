"""The model registry: updates and copies of models and of their versions."""

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation

from emulator import operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.models import add_version, target_name, to_output
from emulator.resources import Method, location_path
from emulator.state import State, canonical_name, find_model, now

MODEL_FIELDS = {"display_name", "description", "labels"}
VERSION_FIELDS = {"version_description", "labels"}


def update(state: State, request: v1.UpdateModelRequest) -> v1.Model:
    """Change the fields in the mask: of one version if the name has one, else of the model."""
    new, paths = request.model, list(request.update_mask.paths)
    name, _, version = new.name.partition("@")
    is_version = version not in ("", "-")
    fields = {path.partition(".")[0] for path in paths}
    if unknown := fields - MODEL_FIELDS - VERSION_FIELDS:
        raise invalid_argument(f"Field {min(unknown)} cannot be updated.")
    if others := fields - (VERSION_FIELDS if is_version else MODEL_FIELDS):
        what = "a version" if is_version else "a model (its name has no @VERSION)"
        raise failed_precondition(f"Field {min(others)} cannot be updated in an update of {what}.")
    with state.lock:
        model = find_model(state, new.name if is_version else name)
        if new.etag and new.etag != model.etag:
            message = (
                f"The etag {new.etag} of {model.name} is out of date: the model was changed since."
            )
            raise ApiError("ABORTED", message)
        versions = [model] if is_version else list(state.models[model.name].values())
        for each in versions:
            for field in fields - {"labels"}:
                setattr(each, field, getattr(new, field))
            each.etag = state.next_id()
            each.version_update_time = now()
            if not is_version:
                each.update_time = now()
        if "labels" in fields:
            _set_labels(state, model, dict(new.labels), is_version=is_version)
        return to_output(state, model)


def _set_labels(state: State, model: v1.Model, labels: dict[str, str], *, is_version: bool) -> None:
    """Replace the labels of a version, or of a model; clients get both, so both lose those that are left out."""
    if is_version:
        model.labels = labels
        return
    state.model_labels[model.name] = labels
    for each in state.models[model.name].values():
        each.labels = {key: labels[key] for key in each.labels if key in labels}


def copy(state: State, request: v1.CopyModelRequest) -> Operation:
    """Start to copy a model, or one version of it, to a location of its project."""
    source = find_model(state, request.source_model)
    parent = canonical_name(request.parent)
    if source.name.split("/")[1] != parent.split("/")[1]:
        raise invalid_argument("The source model must be in the same project.")
    parent_model = request.parent_model
    if parent_model and location_path(parent_model) != parent:
        raise invalid_argument(f"{parent_model} is not in {request.parent}.")
    name = target_name(state, parent, request.model_id, parent_model)

    def work(_: operations.Operation) -> v1.CopyModelResponse:
        model = v1.Model(source)
        model.version_aliases = []
        model.original_model_info.model = f"{source.name}@{source.version_id}"
        model.encryption_spec = request.encryption_spec
        add_version(state, name, model)
        return v1.CopyModelResponse(model=name, model_version_id=model.version_id)

    return operations.start(state, name, "CopyModel", work)


METHODS: dict[str, Method] = {"UpdateModel": update, "CopyModel": copy}
