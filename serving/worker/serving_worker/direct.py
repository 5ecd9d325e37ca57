"""Receive requests from nginx without TorchServe's Java, which still starts and watches workers.

All workers wait for the same listening socket. A free one accepts the requests that wait there, up to its batch
size, so that none is bound to a worker before it can run.
"""

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from ts.service import Service

from . import http_messages
from .device import check_device
from .limit import ResponseTimeoutError
from .logs import JsonFormatter
from .messages import parse_responses
from .service import ClientDisconnectedError, Runtime, predict

MAX_BATCH_BYTES = 16 << 20
"""No more requests are accepted into a batch once their bodies have this size together."""
IDLE_S = 1.0
"""How often an idle worker looks for requests and for streams that make no progress, and disarms its limit."""
STALLED_STREAM_S = 30
"""How long the reader of a stream may take for a part."""

log = logging.getLogger(__name__)


def receive_listener(path: str) -> socket.socket:
    """Return the listening socket that all workers share; the container's first process hands it out."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        _, (fd, *_), _, _ = socket.recv_fds(connection, 1, 1)
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


class Stream:
    """A response that is sent in parts. What its client has not read waits here, so that sending never blocks."""

    def __init__(self, request: http_messages.Request, parts: Iterator[str | bytes]) -> None:
        self.request, self._parts = request, parts
        self.connection = request.connection
        self.connection.setblocking(False)
        self._head = http_messages.format_head(request.processor, None)
        self._unsent = bytearray()
        self._is_ended = False
        self._progress_at = time.monotonic()

    @property
    def is_stalled(self) -> bool:
        """Whether the client has not read for too long."""
        return time.monotonic() - self._progress_at > STALLED_STREAM_S

    def advance(self) -> bool:
        """Send what is unsent, else the next part; return whether there is more for a client that has not left."""
        if not self._unsent:
            part = next(self._parts, None)
            if part is None:
                self._is_ended = True
                self._write(http_messages.LAST_CHUNK)
            else:
                self.add(part.encode() if isinstance(part, str) else part)
        return self.send() and not (self._is_ended and not self._unsent)

    def add(self, part: bytes) -> None:
        """Add a part to what is unsent."""
        self._write(http_messages.format_chunk(part))

    def _write(self, chunk: bytes) -> None:
        self._unsent += self._head + chunk
        self._head = b""

    def send(self) -> bool:
        """Send as much as the connection takes at once; return False if the client has left."""
        try:
            del self._unsent[: self.connection.send(self._unsent)]
            self._progress_at = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the response, and the generation if it has not ended."""
        self.connection.close()
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


class IntermediateResponses:
    """What a handler of TorchServe sees as its connection: sends the parts of responses that it writes."""

    def __init__(self) -> None:
        self._waiting: dict[str, http_messages.Request] = {}
        self.streams: dict[str, Stream] = {}
        """The responses that have begun, by the ID of their request."""

    def reset(self, batch: dict[str, http_messages.Request]) -> None:
        """Begin a batch of requests by ID."""
        self._waiting, self.streams = batch, {}

    def sendall(self, message: bytes) -> None:
        """Send the parts in one of TorchServe's messages; raise ClientDisconnectedError."""
        for request_id, body in parse_responses(message):
            if (request := self._waiting.get(request_id)) is not None:
                self._send(request_id, request, body)

    send = sendall

    def _send(self, request_id: str, request: http_messages.Request, body: bytes) -> None:
        if (stream := self.streams.get(request_id)) is None:
            stream = self.streams[request_id] = Stream(request, iter(()))
        stream.add(body)
        if not stream.send():
            del self._waiting[request_id]
            if not self._waiting:
                raise ClientDisconnectedError


class Batches(NamedTuple):
    """How requests are collected into a batch."""

    max_requests: int
    delay_s: float = 0
    """How long a request waits for others; 0: a batch has what waits already."""
    gather_s: float = 0
    """How long a request waits for as many others as the batch before had: with several clients, the next requests
    of those that were just answered. A client alone never waits."""


class DirectServer:
    """Answers the requests of nginx until Java closes its connection."""

    def __init__(
        self,
        listener: socket.socket,
        service: Service,
        batches: Batches,
        runtime: Runtime,
    ) -> None:
        self._listener, self._service, self._batches = listener, service, batches
        self._runtime = runtime
        self._limit, self._telemetry = runtime.limit, runtime.telemetry
        self._last_size = 1
        """The number of requests in the batch before."""
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self._intermediate = IntermediateResponses()
        service.set_cl_socket(self._intermediate)

    def run(self, java: socket.socket, on_message: Callable[[], None]) -> NoReturn:
        """Serve; `on_message` handles a message of Java, and raises when Java has closed its connection."""
        # Exclusive: a request wakes one of the workers that wait, the one that waited last.
        self._epoll.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._epoll.register(java, select.EPOLLIN)
        while True:
            events = self._epoll.poll(IDLE_S)
            if not events:
                if self._limit.is_armed:
                    self._limit.disarm()
                # A request whose wake-up went to a worker that was killed before it accepted wakes no other.
                self._serve_batch()
            if self._streams:
                self._end_stalled_streams({fd for fd, _ in events})
            for fd, event in events:
                if fd == self._listener.fileno():
                    self._serve_batch()
                elif fd == java.fileno():
                    on_message()
                elif fd in self._streams:
                    self._serve_stream(fd, event)

    def _serve_batch(self) -> None:
        batch = self._accept_batch()
        if not batch:
            return
        arrived = time.time_ns()
        processors = [request.processor for request in batch]
        ids = [str(number) for number in range(len(batch))]
        self._intermediate.reset(dict(zip(ids, batch, strict=True)))
        self._telemetry.timings = None
        try:
            data = [request.data for request in batch]
            bodies = predict(self._service, ids, processors, data, self._runtime)
        except ClientDisconnectedError:
            for request in batch:
                request.connection.close()
            return
        finally:
            JsonFormatter.requests = []
        # Sent before the response, so that nginx's event arrives after this one.
        self._telemetry.send_batch(processors, arrived)
        streams = []
        for request_id, request, body in zip(ids, batch, bodies, strict=True):
            if not isinstance(body, bytes):
                streams.append(Stream(request, body))
            elif (stream := self._intermediate.streams.get(request_id)) is not None:
                stream.add(body)
                streams.append(stream)
            else:
                if len(body) > http_messages.MAX_COPIED_BYTES:
                    self._limit.disarm()  # nginx may take longer for it than the handler may
                http_messages.send_response(request, body)
        for stream in streams:
            self._start_stream(stream)
        check_device()

    def _accept_batch(self) -> list[http_messages.Request]:
        """Accept the requests that wait, and those that arrive within the time that `_choose_wait` returns."""
        batch: list[http_messages.Request] = []
        size, first_at = 0, 0.0
        while len(batch) < self._batches.max_requests and size < MAX_BATCH_BYTES:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                wait_s = self._choose_wait(len(batch))
                if not wait_s:
                    break
                remaining_s = first_at + wait_s - time.monotonic()
                if remaining_s <= 0 or not select.select([self._listener], [], [], remaining_s)[0]:
                    break
                continue
            try:
                request = http_messages.receive(connection)
            except (http_messages.ProtocolError, OSError):
                connection.close()
                continue
            if request.is_abandoned:
                connection.close()
                continue
            if not batch:
                first_at = time.monotonic()
            batch.append(request)
            size += len(request.data["body"])
        if batch:
            self._last_size = len(batch)
        return batch

    def _choose_wait(self, count: int) -> float:
        """Return how long the first of the `count` requests in a batch waits for others, in seconds."""
        if not count:
            return 0
        gather_s = self._batches.gather_s if count < self._last_size else 0
        return self._batches.delay_s or gather_s

    def _start_stream(self, stream: Stream) -> None:
        fd = stream.connection.fileno()
        self._streams[fd] = stream
        self._epoll.register(fd, select.EPOLLOUT | select.EPOLLRDHUP)
        self._serve_stream(fd, select.EPOLLOUT)

    def _serve_stream(self, fd: int, event: int) -> None:
        """Advance a stream by one part, and end it at its end or when the client has left."""
        is_open = False
        if not event & (select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR):
            with self._log_failure(self._streams[fd]):
                is_open = self._streams[fd].advance()
        if not is_open:
            self._end_stream(fd)
            check_device()

    def _end_stalled_streams(self, active: set[int]) -> None:
        for fd in [fd for fd, stream in self._streams.items() if stream.is_stalled]:
            if fd not in active:
                self._end_stream(fd)

    def _end_stream(self, fd: int) -> None:
        self._epoll.unregister(fd)
        stream = self._streams.pop(fd)
        with self._log_failure(stream):
            stream.close()

    @contextlib.contextmanager
    def _log_failure(self, stream: Stream) -> Iterator[None]:
        """Limit the time of a part or of the end of a stream, and log what it raises."""
        JsonFormatter.requests = [stream.request.processor]
        try:
            with self._limit, self._runtime.cores:
                yield
        except (ResponseTimeoutError, Exception):
            log.exception("a stream failed")
        finally:
            JsonFormatter.requests = []
