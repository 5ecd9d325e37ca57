"""Methods that all resource types share: get, list with filters and pages, and delete."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import operations
from emulator.errors import not_found
from emulator.listing import list_page
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
    page, token = list_page(items, request)
    return response_type(**{next(iter(response_type.meta.fields)): page, "next_page_token": token})
