"""The replicas of a deployed model, used in turn; with scale to zero they are stopped without traffic."""

import itertools
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.cloud import aiplatform_v1 as v1

from emulator.containers import Replica
from emulator.errors import ApiError

if TYPE_CHECKING:
    from emulator.previews import ScaleToZero

POLL_S = 0.2
log = logging.getLogger("emulator")


@dataclass
class ReplicaPool:
    """The replicas of a deployed model, used in turn."""

    resources: v1.DedicatedResources
    replicas: list[Replica] = field(default_factory=list)
    _template: Replica | None = None
    _initial_count: int = 1
    _last_request_s: float = 0
    _scaling_up: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _counter: "itertools.count[int]" = field(default_factory=itertools.count)

    def start(
        self,
        template: Replica,
        count: int,
        scale_to_zero: "ScaleToZero | None",
        cancelled: threading.Event,
    ) -> None:
        """Start replicas that are configured as the template; raise ApiError."""
        self._template, self._initial_count = template, count
        self.resize(count, cancelled)
        if scale_to_zero:
            threading.Thread(target=self._watch, args=[scale_to_zero], daemon=True).start()

    def pick(self) -> Replica:
        """Return the next healthy replica; raise ApiError if there is none."""
        self._last_request_s = time.monotonic()
        healthy = [replica for replica in self.replicas if replica.healthy]
        if healthy:
            return healthy[next(self._counter) % len(healthy)]
        if self._template and not self.replicas:
            threading.Thread(target=self._scale_up, daemon=True).start()
            message = (
                "Model is not yet ready for inference. Please wait and then try your request again."
            )
            raise ApiError("RESOURCE_EXHAUSTED", message)
        raise ApiError("UNAVAILABLE", "no healthy upstream")

    def resize(self, count: int, cancelled: threading.Event) -> None:
        """Start or stop replicas until there are `count`; raise ApiError."""
        while len(self.replicas) > count:
            self.replicas.pop().stop()
        while len(self.replicas) < count and self._template:
            old = self._template
            replica = Replica(old.config, old.model, old.env, old.machine)
            try:
                replica.start(cancelled)
            except BaseException:
                replica.stop()
                raise
            self.replicas.append(replica)

    def stop(self) -> None:
        """Stop all replicas."""
        self._stopped.set()
        while self.replicas:
            self.replicas.pop().stop()

    def _scale_up(self) -> None:
        if not self._scaling_up.acquire(blocking=False):
            return
        try:
            self.resize(self._initial_count, self._stopped)
        except ApiError as error:
            log.warning("scaling up from zero failed: %s", error)
        finally:
            self._scaling_up.release()
        if self._stopped.is_set():
            self.stop()

    def _watch(self, limits: "ScaleToZero") -> None:
        """Stop the replicas whenever there was no traffic for a while."""
        up_since_s = time.monotonic()
        while not self._stopped.wait(POLL_S):
            now_s = time.monotonic()
            if not self.replicas:
                up_since_s = now_s
            elif (
                now_s - max(self._last_request_s, up_since_s) > limits.idle_s
                and now_s - up_since_s > limits.min_up_s
            ):
                self.resize(0, self._stopped)
