"""Converts events to traces: request -> queue, worker -> decode, forward, encode.

A worker's event for a batch arrives before nginx's events for its requests, so batches are kept
until then. A trace that no caller began has its request's ID, by which the log finds it.
"""

from collections import OrderedDict

from opentelemetry.context import Context
from opentelemetry.propagators.cloud_trace_propagator import CloudTraceFormatPropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.telemetry.events import BatchAnswered, Event, RequestAnswered

MAX_PENDING_REQUESTS = 4096
"""Requests of kept batches; beyond this the oldest are discarded."""
PROPAGATOR = CompositePropagator([CloudTraceFormatPropagator(), TraceContextTextMapPropagator()])
"""Reads the caller's trace from its headers; traceparent takes precedence."""


class RequestIdGenerator(RandomIdGenerator):
    """Uses a request's ID as its trace's."""

    next_trace_id = 0
    """The ID of the next trace that no caller began."""

    def generate_trace_id(self) -> int:
        """Return the request's ID."""
        return self.next_trace_id

    def is_trace_id_random(self) -> bool:
        """Return True: nginx's request IDs are 16 random bytes."""
        return True


class SpanWriter:
    """Writes the spans of each request that is sampled."""

    def __init__(self, provider: TracerProvider, ids: RequestIdGenerator) -> None:
        """`ids` is the provider's generator."""
        self._tracer, self._ids = provider.get_tracer("serving"), ids
        self._batches: OrderedDict[str, BatchAnswered] = OrderedDict()

    def record(self, event: Event) -> None:
        """Keep a batch until its requests are answered; write the spans of an answered request."""
        match event:
            case BatchAnswered():
                self._keep(event)
            case RequestAnswered():
                self._write(event)

    def _keep(self, batch: BatchAnswered) -> None:
        for request in batch.requests:
            self._batches[request] = batch
        while len(self._batches) > MAX_PENDING_REQUESTS:
            self._batches.popitem(last=False)

    def _write(self, event: RequestAnswered) -> None:
        batch = self._batches.pop(event.request, None)
        self._ids.next_trace_id = int(event.request, 16)
        span = self._tracer.start_span(
            event.method or "_OTHER",
            PROPAGATOR.extract(event.trace_headers, Context()),
            SpanKind.SERVER,
            {
                "http.request.method": event.method,
                "url.path": event.path,
                "http.response.status_code": event.status,
                "request.id": event.request,
            },
            start_time=event.start_ns,
        )
        if not span.is_recording():
            return
        if event.status >= 500:
            span.set_status(StatusCode.ERROR)
        if batch is not None:
            self._write_batch(span, batch, batch.requests[event.request])
        span.end(event.end_ns)

    def _write_batch(self, parent: Span, batch: BatchAnswered, sent: int) -> None:
        self._write_child(parent, "queue", min(sent, batch.received_ns), batch.received_ns)
        worker = self._tracer.start_span(
            "worker",
            set_span_in_context(parent),
            start_time=batch.received_ns,
            attributes={"batch.requests": len(batch.requests)},
        )
        if (timings := batch.timings) is not None:
            worker.set_attribute("batch.instances", timings.instances)
            self._write_child(
                worker, "decode", timings.preprocessing_start_ns, timings.inference_start_ns
            )
            self._write_child(
                worker, "forward", timings.inference_start_ns, timings.postprocessing_start_ns
            )
            self._write_child(worker, "encode", timings.postprocessing_start_ns, timings.end_ns)
        worker.end(batch.end_ns)

    def _write_child(self, parent: Span, name: str, began: int, ended: int) -> None:
        self._tracer.start_span(name, set_span_in_context(parent), start_time=began).end(ended)
