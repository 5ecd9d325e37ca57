"""Failures on demand: what Google refuses, breaks and drops, for as many requests as were asked for."""

import threading
from dataclasses import dataclass, field
from typing import Any

from emulator.errors import ApiError, invalid_argument, permission_denied, service_disabled

KINDS = ("denied", "disabled", "refused", "failing", "cut")


@dataclass
class Fault:
    """One kind of failure, of one method of Google's."""

    kind: str
    rpc: str
    """Such as DeployModel; GetOperation for polling."""
    times: int = 1
    """How often it strikes; -1: every time."""
    detail: str = ""
    """denied: the permission; disabled: the API; refused and failing: STATUS message."""


@dataclass
class Faults:
    """The failures that are still to come."""

    pending: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, wanted: dict[str, Any]) -> None:
        """Order a failure; raise Refused where it is none."""
        try:
            fault = Fault(**wanted)
        except TypeError as error:
            raise invalid_argument(str(error)) from None
        if fault.kind not in KINDS:
            raise invalid_argument(f"kind is one of {', '.join(KINDS)}")
        with self.lock:
            self.pending.append(fault)

    def clear(self) -> None:
        """Let everything work again."""
        with self.lock:
            self.pending.clear()

    def take(self, rpc: str, *kinds: str) -> Fault | None:
        """Return the fault that is due for a method, if any, and count it."""
        with self.lock:
            for fault in self.pending:
                if fault.kind in kinds and fault.rpc in (rpc, "*") and fault.times:
                    fault.times -= 1
                    return fault
        return None


def to_error(fault: Fault, resource: str) -> ApiError:
    """Return the error that a fault of kind denied, disabled, refused or failing means."""
    if fault.kind == "denied":
        return permission_denied(fault.detail, resource)
    if fault.kind == "disabled":
        return service_disabled(
            fault.detail, resource.split("/")[1] if "/" in resource else resource
        )
    status, _, message = fault.detail.partition(" ")
    return ApiError(status, message)
