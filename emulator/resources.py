"""Methods that all resource types share: get, list with filters and pages, and delete."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import operations
from emulator.errors import invalid_argument, not_found, unimplemented
from emulator.state import State, canonical_name

Method = Callable[[State, Any], Any]
"""Implementation of one of Google's methods: state, request → response, or ApiError."""


class ResourceType:
    """A resource type, such as PipelineJob, with the methods that depend on nothing else."""

    metadata: Any = v1.DeleteOperationMetadata
    """Type of a delete operation's metadata."""

    def __init__(
        self, name: str, collection: Callable[[State], dict[str, Any]], list_response_type: Any
    ) -> None:
        """Describe a type; `collection` returns its resources by name."""
        self.name, self.collection = name, collection
        self._list_response_type = list_response_type

    def find(self, state: State, name: str) -> Any:
        """Return a resource by its name; raise ApiError if it does not exist."""
        resource = self.collection(state).get(canonical_name(name))
        if resource is None:
            raise not_found(self.name, name)
        return resource

    def get(self, state: State, request: Any) -> Any:
        """Return a resource."""
        return self.find(state, request.name)

    def list(self, state: State, request: Any) -> Any:
        """Return the resources of a location; the location `-` means all locations."""
        resources = children(self.collection(state), request.parent)
        return list_response(self._list_response_type, resources, request)

    def delete(self, state: State, request: Any) -> Operation:
        """Start to delete a resource."""
        self.get(state, request)
        name = canonical_name(request.name)

        def work(_: operations.Operation) -> Empty:
            self.collection(state).pop(name, None)
            return Empty()

        # The routes in Google's clients have no operations below some resources, but below every location.
        rpc = f"Delete{self.name}"
        return operations.start(state, location_path(name), rpc, work, self.metadata())

    def methods(self) -> dict[str, Method]:
        """Return the methods by Google's names."""
        return {
            f"Get{self.name}": self.get,
            f"List{self.name}s": self.list,
            f"Delete{self.name}": self.delete,
        }


def location_path(name: str) -> str:
    """Return the projects/PROJECT/locations/LOCATION part of a resource's name."""
    return "/".join(canonical_name(name).split("/")[:4])


def children(collection: Mapping[str, Any], parent: str) -> list[Any]:
    """Return the resources below a parent; `-` in its name matches any location."""
    pattern = re.compile(re.escape(canonical_name(parent)).replace("/\\-", "/[^/]+") + "/.*")
    return [resource for name, resource in collection.items() if pattern.fullmatch(name)]


def list_response(response_type: Any, items: Iterable[Any], request: Any) -> Any:
    """Return a list method's response with the items on the requested page."""
    page, token = paginate(items, request)
    return response_type(**{next(iter(response_type.meta.fields)): page, "next_page_token": token})


def paginate(items: Iterable[Any], request: Any) -> tuple[list[Any], str]:
    """Return the items that match a request's filter, on its page, and the next page's token."""
    matching = list(items)
    if expression := getattr(request, "filter", ""):
        for clause in re.split(r"\s+AND\s+", expression):
            matching = [item for item in matching if _matches(item, clause.strip())]
    if getattr(request, "order_by", ""):
        raise unimplemented("the emulator lists resources in the order of their creation only")
    first = int(request.page_token or 0)
    end = first + (request.page_size or 100)
    return matching[first:end], str(end) if len(matching) > end else ""


def _matches(item: Any, clause: str) -> bool:
    """Return whether an item matches one clause of a filter, such as labels.team="x"; raise ApiError."""
    match = re.fullmatch(r'([\w.\-]+)\s*(!?=)\s*"?([^"]*)"?', clause)
    if match is None:
        raise unimplemented(f"the emulator does not support the filter {clause!r}")
    key, operator, expected = match.groups()
    if key.startswith("labels."):
        return bool(item.labels.get(key.removeprefix("labels.")) == expected) == (operator == "=")
    name = {"model": "name", "endpoint": "name", "model_id": "name"}.get(key, key)
    if not hasattr(item, name):
        raise invalid_argument(f"Invalid filter: no field {key}")
    value = str(getattr(item, name))
    if name == "name":
        value, expected = value.rsplit("/", 1)[-1], expected.rsplit("/", 1)[-1]
    return (value == expected) == (operator == "=")
