"""The model registry: models, their versions and aliases."""

import re
from collections.abc import Iterable, Mapping

import yaml
from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import artifacts, images, operations
from emulator.errors import ApiError, failed_precondition, invalid_argument, unimplemented
from emulator.resources import Method, children, list_response
from emulator.state import State, canonical_name, find_deployments, find_model, get_region, now

INPUT_FORMATS = ["jsonl", "csv", "bigquery", "tf-record", "tf-record-gzip", "file-list"]
OUTPUT_FORMATS = ["jsonl", "bigquery"]
"""The formats of batch prediction that Google lists for a custom container."""
ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")


def upload(state: State, request: v1.UploadModelRequest) -> Operation:
    """Start to add a model, or a version of `parent_model`."""
    model = v1.Model(request.model)
    if "container_spec" not in model:
        raise unimplemented("the emulator serves custom containers only: container_spec is missing")
    _check_aliases(model.version_aliases)
    images.check_region(model.container_spec.image_uri, get_region(request.parent))
    name = target_name(state, request.parent, request.model_id, request.parent_model)
    _check_schemata(state, model.predict_schemata)

    def work(_: operations.Operation) -> v1.UploadModelResponse:
        images.pull_image(state.config, model.container_spec.image_uri)
        resources = v1.Model.DeploymentResourcesType.DEDICATED_RESOURCES
        model.supported_deployment_resources_types = [resources]
        model.supported_input_storage_formats = INPUT_FORMATS
        model.supported_output_storage_formats = OUTPUT_FORMATS
        add_version(state, name, model)
        return v1.UploadModelResponse(model=name, model_version_id=model.version_id)

    return operations.start(state, name, "UploadModel", work)


def get(state: State, request: v1.GetModelRequest) -> v1.Model:
    """Return the version in NAME@VERSION or NAME@ALIAS, or the default version of NAME."""
    model = to_output(state, find_model(state, request.name))
    if "@" in request.name:
        model.name = f"{model.name}@{model.version_id}"
    return model


def list_models(state: State, request: v1.ListModelsRequest) -> v1.ListModelsResponse:
    """Return the default version of every model."""
    models = children(state.models, request.parent)
    names = [next(iter(versions.values())).name for versions in models]
    defaults = [to_output(state, find_model(state, name)) for name in names]
    return list_response(v1.ListModelsResponse, defaults, request)


def list_versions(
    state: State, request: v1.ListModelVersionsRequest
) -> v1.ListModelVersionsResponse:
    """Return every version of a model."""
    versions = state.models[find_model(state, request.name).name].values()
    items = [to_output(state, version) for version in versions]
    return list_response(v1.ListModelVersionsResponse, items, request)


def merge_aliases(state: State, request: v1.MergeVersionAliasesRequest) -> v1.Model:
    """Move aliases to a version; "-alias" removes one."""
    with state.lock:
        model = find_model(state, request.name)
        _check_aliases(alias.removeprefix("-") for alias in request.version_aliases)
        removed = {alias[1:] for alias in request.version_aliases if alias.startswith("-")}
        if "default" in removed:
            raise invalid_argument(
                "The default alias cannot be removed, only moved to another version."
            )
        model.version_aliases = [a for a in model.version_aliases if a not in removed]
        added = [alias for alias in request.version_aliases if not alias.startswith("-")]
        _move_aliases(state.models[model.name], model, added)
        return to_output(state, model)


def delete(state: State, request: v1.DeleteModelRequest) -> Operation:
    """Start to delete a model with all its versions, unless one of them is deployed."""
    model = find_model(state, request.name)
    _check_not_deployed(find_deployments(state, model.name), model.name)

    def work(_: operations.Operation) -> Empty:
        with state.lock:
            _check_not_deployed(find_deployments(state, model.name), model.name)
            state.models.pop(model.name, None)
            state.model_labels.pop(model.name, None)
        return Empty()

    return operations.start(state, model.name, "DeleteModel", work)


def delete_version(state: State, request: v1.DeleteModelVersionRequest) -> Operation:
    """Start to delete a version, unless it is deployed or the default of several."""
    model = find_model(state, request.name)
    if "@" not in request.name:
        raise invalid_argument("A version is needed: NAME@VERSION")
    _check_not_deployed(find_deployments(state, model.name, model.version_id), request.name)
    if len(state.models[model.name]) == 1:
        return delete(state, v1.DeleteModelRequest(name=model.name))
    if "default" in model.version_aliases:
        raise failed_precondition(
            "The default version of a model with several versions cannot be deleted."
        )

    def work(_: operations.Operation) -> Empty:
        state.models[model.name].pop(model.version_id, None)
        return Empty()

    return operations.start(state, model.name, "DeleteModelVersion", work)


def _check_schemata(state: State, schemata: v1.PredictSchemata) -> None:
    """Raise ApiError for a schema that does not exist or is not a YAML object."""
    for kind in ("instance", "parameters", "prediction"):
        uri = getattr(schemata, f"{kind}_schema_uri")
        if not uri:
            continue
        (content,) = artifacts.read_objects(state.config, [uri])
        try:
            schema = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise invalid_argument(f"{uri} is not YAML: {error}") from None
        if not isinstance(schema, dict):
            raise invalid_argument(f"{uri} is not a schema: expected an object.")


def _check_aliases(aliases: Iterable[str]) -> None:
    for alias in aliases:
        if not ALIAS.fullmatch(alias):
            raise invalid_argument(f"Invalid version alias {alias}: expected {ALIAS.pattern}")


def _check_not_deployed(deployments: list[tuple[str, str]], name: str) -> None:
    if deployments:
        places = ", ".join(f"{each} (deployed model {number})" for each, number in deployments)
        raise failed_precondition(
            f"Model {name} cannot be deleted: it is deployed to {places}. Undeploy it first."
        )


def target_name(state: State, parent: str, model_id: str, parent_model: str) -> str:
    """Return the name of the model that gets an uploaded or copied version; raise ApiError."""
    if parent_model:
        return str(find_model(state, parent_model).name)
    model_id = model_id or state.next_id()
    name = f"{canonical_name(parent)}/models/{model_id}"
    if name in state.models:
        raise ApiError("ALREADY_EXISTS", f"Model {name} already exists.")
    return name


def add_version(state: State, name: str, model: v1.Model) -> None:
    """Add the newest version of a model; the first one becomes the default."""
    with state.lock:
        versions = state.models.setdefault(name, {})
        model.name, model.etag = name, state.next_id()
        model.version_id = str(max(map(int, versions), default=0) + 1)
        model.create_time = model.update_time = now()
        model.version_create_time = model.version_update_time = now()
        aliases = [*model.version_aliases, *(["default"] if not versions else [])]
        model.version_aliases = []
        versions[model.version_id] = model
        _move_aliases(versions, model, aliases)


def _move_aliases(versions: Mapping[str, v1.Model], model: v1.Model, aliases: list[str]) -> None:
    for other in versions.values():
        other.version_aliases = [alias for alias in other.version_aliases if alias not in aliases]
    model.version_aliases = [*model.version_aliases, *dict.fromkeys(aliases)]


def to_output(state: State, model: v1.Model) -> v1.Model:
    """Return a copy of a model as clients get it: with the model's labels, and references to deployments."""
    copy = v1.Model(model)
    copy.labels = {**state.model_labels.get(model.name, {}), **model.labels}
    copy.deployed_models = [
        v1.DeployedModelRef(endpoint=endpoint, deployed_model_id=number)
        for endpoint, number in find_deployments(state, model.name, model.version_id)
    ]
    return copy


METHODS: dict[str, Method] = {
    "UploadModel": upload,
    "GetModel": get,
    "ListModels": list_models,
    "ListModelVersions": list_versions,
    "MergeVersionAliases": merge_aliases,
    "DeleteModel": delete,
    "DeleteModelVersion": delete_version,
}
