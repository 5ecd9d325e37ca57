"""Facts -> traces: front -> queue, worker -> decode, forward, encode.

A worker tells of a batch before nginx tells of its requests' answers: what it told is kept until
then. A trace that no caller began has its request's id for its own, so that the log finds it.
"""

from collections import OrderedDict

from opentelemetry.context import Context
from opentelemetry.propagators.cloud_trace_propagator import CloudTraceFormatPropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.telemetry.events import Answered, Batch, Fact

MOST_KEPT = 4096
"""Requests that a worker told of and nginx has not: of more the oldest are given up."""
CALLERS = CompositePropagator([CloudTraceFormatPropagator(), TraceContextTextMapPropagator()])
"""How a caller tells of its trace; the later one is believed."""


class Ids(RandomIdGenerator):
    """Gives the next trace the id of its request."""

    trace = 0
    """For the next trace that no caller began."""

    def generate_trace_id(self) -> int:
        """Return it."""
        return self.trace

    def is_trace_id_random(self) -> bool:
        """Say so of nginx's request ids: 16 random bytes."""
        return True


class Spans:
    """Makes the spans of each request that is sampled."""

    def __init__(self, provider: TracerProvider, ids: Ids) -> None:
        """`ids` are those that the provider takes."""
        self._tracer, self._ids = provider.get_tracer("serving"), ids
        self._batches: OrderedDict[str, Batch] = OrderedDict()

    def take(self, fact: Fact) -> None:
        """Keep a batch until its requests are answered; write the spans of an answered request."""
        match fact:
            case Batch():
                self._keep(fact)
            case Answered():
                self._write(fact)

    def _keep(self, batch: Batch) -> None:
        for request in batch.requests:
            self._batches[request] = batch
        while len(self._batches) > MOST_KEPT:
            self._batches.popitem(last=False)

    def _write(self, answered: Answered) -> None:
        batch = self._batches.pop(answered.request, None)
        self._ids.trace = int(answered.request, 16)
        front = self._tracer.start_span(
            answered.method or "_OTHER",
            CALLERS.extract(answered.caller, Context()),
            SpanKind.SERVER,
            {
                "http.request.method": answered.method,
                "url.path": answered.path,
                "http.response.status_code": answered.status,
                "request.id": answered.request,
            },
            start_time=answered.began,
        )
        if not front.is_recording():
            return
        if answered.status >= 500:
            front.set_status(StatusCode.ERROR)
        if batch is not None:
            self._write_batch(front, batch, batch.requests[answered.request])
        front.end(answered.ended)

    def _write_batch(self, front: Span, batch: Batch, sent: int) -> None:
        self._within(front, "queue", min(sent, batch.arrived), batch.arrived)
        worker = self._tracer.start_span(
            "worker",
            set_span_in_context(front),
            start_time=batch.arrived,
            attributes={"batch.requests": len(batch.requests)},
        )
        if (stages := batch.stages) is not None:
            worker.set_attribute("batch.instances", stages.instances)
            self._within(worker, "decode", stages.began, stages.decoded)
            self._within(worker, "forward", stages.decoded, stages.passed)
            self._within(worker, "encode", stages.passed, stages.ended)
        worker.end(batch.ended)

    def _within(self, parent: Span, name: str, began: int, ended: int) -> None:
        self._tracer.start_span(name, set_span_in_context(parent), start_time=began).end(ended)
