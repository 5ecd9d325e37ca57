"""What every kind of resource has: get, list with its filters and pages, and delete."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import operations
from emulator.errors import invalid_argument, not_found, unimplemented
from emulator.state import State, canonical_name

Method = Callable[[State, Any], Any]


class Kind:
    """One kind of resource, such as PipelineJob: the methods that need nothing but its collection."""

    metadata: Any = v1.DeleteOperationMetadata
    """Of the operation that deletes one."""

    def __init__(self, name: str, kept: Callable[[State], dict[str, Any]], listing: Any) -> None:
        """`kept` returns the resources by name; `listing` is the type of the list method's response."""
        self.name, self.kept, self._listing = name, kept, listing

    def find(self, state: State, name: str) -> Any:
        """Return a resource by its name; raise Refused."""
        found = self.kept(state).get(canonical_name(name))
        if found is None:
            raise not_found(self.name, name)
        return found

    def get(self, state: State, request: Any) -> Any:
        """Return a resource; raise Refused."""
        return self.find(state, request.name)

    def list(self, state: State, request: Any) -> Any:
        """Return a location's resources; the location `-` stands for all of them."""
        return listed(self._listing, under(self.kept(state), request.parent), request)

    def delete(self, state: State, request: Any) -> Operation:
        """Begin to delete a resource."""
        self.get(state, request)
        name = canonical_name(request.name)

        def work(_: operations.Operation) -> Empty:
            self.kept(state).pop(name, None)
            return Empty()

        # Some resources have no operations of their own in Google's clients' routes: the location has.
        rpc = f"Delete{self.name}"
        return operations.start(state, place(name), rpc, work, self.metadata())

    def methods(self) -> dict[str, Method]:
        """Return the methods by Google's names."""
        return {
            f"Get{self.name}": self.get,
            f"List{self.name}s": self.list,
            f"Delete{self.name}": self.delete,
        }


def place(name: str) -> str:
    """Return the project and location in a resource's name."""
    return "/".join(canonical_name(name).split("/")[:4])


def under(kept: dict[str, Any], parent: str) -> list[Any]:
    """Return the resources of a parent; `-` in its name stands for any."""
    pattern = re.compile(re.escape(canonical_name(parent)).replace("/\\-", "/[^/]+") + "/.*")
    return [resource for name, resource in kept.items() if pattern.fullmatch(name)]


def listed(response: Any, items: Iterable[Any], request: Any) -> Any:
    """Return a list method's response of this type, with the items on the page that was requested."""
    found, token = page(items, request)
    return response(**{next(iter(response.meta.fields)): found, "next_page_token": token})


def page(items: Iterable[Any], request: Any) -> tuple[list[Any], str]:
    """Return the items of a list request's page that its filter lets through, and the next page's token."""
    found = list(items)
    if wanted := getattr(request, "filter", ""):
        for clause in re.split(r"\s+AND\s+", wanted):
            found = [item for item in found if _matches(item, clause.strip())]
    if getattr(request, "order_by", ""):
        raise unimplemented("the rehearsal lists in the order of creation only")
    first = int(request.page_token or 0)
    size = request.page_size or 100
    return found[first : first + size], str(first + size) if len(found) > first + size else ""


def _matches(item: Any, clause: str) -> bool:
    """Return whether an item matches one clause of a filter, such as labels.team="x"; raise Refused."""
    match = re.fullmatch(r'([\w.\-]+)\s*(!?=)\s*"?([^"]*)"?', clause)
    if match is None:
        raise unimplemented(f"the rehearsal does not read the filter {clause!r}")
    key, sign, value = match.groups()
    if key.startswith("labels."):
        return bool(item.labels.get(key.removeprefix("labels.")) == value) == (sign == "=")
    name = {"model": "name", "endpoint": "name", "model_id": "name"}.get(key, key)
    if not hasattr(item, name):
        raise invalid_argument(f"Invalid filter: no field {key}")
    have = str(getattr(item, name))
    same = have.rsplit("/", 1)[-1] == value.rsplit("/", 1)[-1] if name == "name" else have == value
    return same == (sign != "!=")
