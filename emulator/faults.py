"""Fault injection: errors that a test orders for the next requests to a method."""

import threading
from dataclasses import dataclass, field
from typing import Any

from emulator.errors import ApiError, invalid_argument, permission_denied, service_disabled

KINDS = ("denied", "disabled", "refused", "failing", "cut")


@dataclass
class Fault:
    """One kind of error for one method; README.md describes the kinds."""

    kind: str
    rpc: str
    """Name of the method, such as DeployModel; GetOperation for polling; * for any."""
    times: int = 1
    """Number of requests that fail; -1: all of them."""
    detail: str = ""
    """denied: the permission; disabled: the API; refused and failing: STATUS message."""


@dataclass
class Faults:
    """The injected faults, in order."""

    pending: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, content: dict[str, Any]) -> None:
        """Add a fault, given its fields; raise ApiError if they are invalid."""
        try:
            fault = Fault(**content)
        except TypeError as error:
            raise invalid_argument(str(error)) from None
        if fault.kind not in KINDS:
            raise invalid_argument(f"kind: expected one of {', '.join(KINDS)}, got {fault.kind!r}")
        with self.lock:
            self.pending.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        with self.lock:
            self.pending.clear()

    def take(self, rpc: str, *kinds: str) -> Fault | None:
        """Return the first fault of these kinds for a method, if any, and count it down."""
        with self.lock:
            for fault in self.pending:
                if fault.kind in kinds and fault.rpc in (rpc, "*") and fault.times:
                    fault.times -= 1
                    return fault
        return None


def to_error(fault: Fault, resource: str) -> ApiError:
    """Return the error for a fault of kind denied, disabled, refused or failing."""
    if fault.kind == "denied":
        return permission_denied(fault.detail, resource)
    if fault.kind == "disabled":
        project = resource.split("/")[1] if "/" in resource else resource
        return service_disabled(fault.detail, project)
    status, _, message = fault.detail.partition(" ")
    return ApiError(status, message)
