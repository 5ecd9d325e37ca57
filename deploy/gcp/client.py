"""The transport to Google's APIs: credentials, retries, errors, dry runs and long-running operations."""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol, TypeVar

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.api_core.operation import Operation
from google.api_core.retry import Retry, exponential_sleep_generator, if_exception_type
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.rpc import code_pb2

from deploy.error_messages import GoogleError, to_user_error
from deploy.errors import TransientError, UserError
from deploy.settings import Settings

TIMEOUT_S = 60
"""For one request."""
RETRYABLE = (
    exceptions.ServiceUnavailable,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
    exceptions.RetryError,
    requests.ConnectionError,
    requests.Timeout,
    TransportError,
)
"""Errors that are worth a retry, except a 429 that names a quota."""
PERMANENT = (exceptions.GoogleAPICallError, DefaultCredentialsError, RefreshError)
RETRY_TIMEOUT_S = 120
"""How long a read is retried while Google's API is unavailable."""
MAX_ATTEMPTS = 8
"""How often a change is attempted if its outcome stays unknown."""
POLL_S = (1.0, 10.0)
"""The first and the maximum pause between two polls."""
Result = TypeVar("Result")
Service = TypeVar("Service")


class Operations(Protocol):
    """A client of a Google API that has long-running operations."""

    @property
    def get_operation(self) -> Callable[..., operations_pb2.Operation]:
        """Fetches an operation by its name."""


class Client:
    """Calls Google's APIs for one project.

    Methods raise UserError for an error that the user has to fix, and TransientError if the caller
    should fetch the state again and retry.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None] = print,
        *,
        dry_run: bool = False,
        changes: list[str] | None = None,
    ) -> None:
        """Report progress with `report`; with `dry_run`, print changes and make none.

        Each change that is sent is appended to `changes`.
        """
        self.settings, self.report, self.dry_run = settings, report, dry_run
        self._changes = [] if changes is None else changes

    # Connections

    def connect(
        self, service: Callable[..., Service], host: str = "", dedicated_host: str = ""
    ) -> Service:
        """Return a client of one of Google's services, over REST.

        The address is `dedicated_host`, or else the setting `api_endpoint`, or else `host`.
        """
        address = dedicated_host or self.settings.api_endpoint or host
        options = ClientOptions(api_endpoint=address) if address else None
        return service(credentials=self.credentials, transport="rest", client_options=options)

    @functools.cached_property
    def credentials(self) -> Credentials:
        """The application default credentials; anonymous ones for the emulator."""
        if self.settings.api_endpoint.startswith("http://"):
            return AnonymousCredentials()
        try:
            credentials, _ = google.auth.default(
                scopes=["https://www.googleapis.com/auth/cloud-platform"],
                quota_project_id=self.settings.project,
            )
        except DefaultCredentialsError:
            hint = "gcloud auth application-default login"
            raise UserError("not authenticated to Google Cloud", hint) from None
        return credentials

    @functools.cached_property
    def session(self) -> requests.Session:
        """An HTTP session with these credentials, for APIs without a client library."""
        if self.settings.api_endpoint.startswith("http://"):
            return requests.Session()
        return AuthorizedSession(self.credentials)

    def base_url(self, service: str) -> str:
        """Return the URL of one of Google's APIs, or of the emulator."""
        return self.settings.api_endpoint or f"https://{service}.googleapis.com"

    # Reads

    def read(self, call: Callable[..., Result], *args: object, **options: object) -> Result:
        """Call a method that changes nothing, with retries. NotFound is not translated."""
        retry = Retry(
            if_exception_type(*RETRYABLE),
            initial=0.5,
            maximum=30.0,
            timeout=RETRY_TIMEOUT_S,
            on_error=lambda error: self.report(f"  {_describe(error)}; retrying"),
        )
        try:
            return retry(call)(*args, timeout=TIMEOUT_S, **options)
        except exceptions.NotFound:
            raise
        except exceptions.RetryError as error:
            hint = "run the same command again: it continues where it stopped"
            raise UserError(f"no response from Google: {_describe(error.cause)}", hint) from None
        except PERMANENT as error:
            self._raise(error)

    def find(self, call: Callable[..., Result], **options: object) -> Result | None:
        """Return what a method reads; None if it does not exist."""
        try:
            return self.read(call, **options)
        except exceptions.NotFound:
            return None

    def list_all(
        self, call: Callable[..., Iterable[Result]], *args: object, **options: object
    ) -> list[Result]:
        """Return all pages of what a method lists; an empty list if the parent does not exist."""
        return self.find(lambda **more: list(call(*args, **options, **more))) or []

    def find_json(self, url: str, **parameters: object) -> dict[str, Any] | None:
        """Return what an API without a client library has at a URL; None if it does not exist."""
        return self.find(self._send_json, method="GET", url=url, params=parameters)

    def list_json(
        self, url: str, key: str, *, limit: float = float("inf"), **parameters: object
    ) -> list[dict[str, Any]]:
        """Return the pages of a list up to `limit` items; an empty list if its parent does not exist."""
        items: list[dict[str, Any]] = []
        while page := self.find_json(url, **parameters):
            items += page.get(key, [])
            if not page.get("nextPageToken") or len(items) >= limit:
                break
            parameters["pageToken"] = page["nextPageToken"]
        return items

    def poll(
        self,
        fetch: Callable[[], Result],
        is_done: Callable[[Result], bool],
        timed_out: UserError,
        describe: Callable[[Result], str] = lambda _: "",
    ) -> Result:
        """Call `fetch` until its result is done, and report the result's description when it changes.

        Raises `timed_out` after `wait_minutes`.
        """
        deadline = time.monotonic() + self.settings.wait_minutes * 60
        pauses_s, reported = exponential_sleep_generator(POLL_S[0], POLL_S[-1]), ""
        while not is_done(result := fetch()):
            if (line := describe(result)) != reported:
                reported = line
                self.report(f"  {line}")
            if time.monotonic() > deadline:
                raise timed_out
            time.sleep(next(pauses_s))
        return result

    # Changes

    def change(self, call: Callable[..., Result], request: object, action: str) -> Result | None:
        """Call a method that changes something, once; with `dry_run`, print the call and return None.

        Raises TransientError if the connection breaks: the change may or may not have been made.
        """
        if self.dry_run:
            service, _, method = call.__qualname__.rpartition(".")
            name = method.title().replace("_", "")
            self.report_call(f"{service.removesuffix('Client')}.{name}", request)
            return None
        return self._change(lambda: call(request, timeout=TIMEOUT_S, retry=None), action)

    def change_json(
        self, method: str, url: str, rpc: str, action: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Send a request that changes something to an API without a client library, as `change` does."""
        if self.dry_run:
            self.report_call(rpc, body or {"name": f"projects/{url.partition('/projects/')[2]}"})
            return None
        return self._change(
            lambda: self._send_json(method=method, url=url, json=body, timeout=TIMEOUT_S), action
        )

    def _change(self, send: Callable[[], Result], action: str) -> Result:
        self._changes.append(action)
        try:
            return send()
        except exceptions.Conflict as error:
            raise TransientError(f"{_get_message(error)} ({action})") from None
        except RETRYABLE as error:
            if isinstance(error, exceptions.TooManyRequests) and "quota" in str(error).lower():
                self._raise(error, action)
            raise TransientError(f"{_describe(error)} ({action})") from None
        except PERMANENT as error:
            self._raise(error, action)

    def _send_json(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the response's JSON; raise GoogleAPICallError."""
        response = self.session.request(**request)
        if not response.ok:
            raise exceptions.from_http_response(response)
        return dict(response.json())

    def run_operation(
        self, call: Callable[..., Operation], request: object, action: str, usual: str = ""
    ) -> None:
        """Start a long-running operation with a service's method, and wait for its end."""
        started = self.change(call, request, action)
        if started is not None:
            service = getattr(call, "__self__")  # noqa: B009  mypy: Callable has no __self__
            self.wait(service, started.operation.name, action, usual)

    def wait(self, service: Operations, operation: str, action: str, usual: str = "") -> None:
        """Wait until an operation of `service` ends, and report progress; raise UserError if it fails.

        `usual` is how long such an operation usually takes.
        """
        started_s = time.monotonic()

        def describe(_: object) -> str:
            half_minutes = (time.monotonic() - started_s) // 30
            return f"{_format_duration(half_minutes * 30)} …" if half_minutes else ""

        self.report(f"→ {action}" + (f" (usually {usual})" if usual else ""))
        request = operations_pb2.GetOperationRequest(name=operation)
        timed_out = UserError(
            f"timed out after {self.settings.wait_minutes} minutes ({action}); the operation continues at Google",
            "run the same command again: it waits for the same operation",
        )
        # None: Google no longer keeps the operation.
        result: operations_pb2.Operation | None = self.poll(
            lambda: self.find(service.get_operation, request=request),
            lambda result: result is None or result.done,
            timed_out,
            describe,
        )
        if result is not None and result.HasField("error"):
            status = code_pb2.Code.Name(result.error.code)
            error = GoogleError(status, result.error.message, action=action)
            raise to_user_error(error, self.settings)
        self.report(f"  done after {_format_duration(time.monotonic() - started_s)}")

    def retry_transient(self, attempt: Callable[[], Result]) -> Result:
        """Call `attempt` until it raises no TransientError, at most MAX_ATTEMPTS times.

        `attempt` has to fetch the state before it changes it.
        """
        for _ in range(MAX_ATTEMPTS):
            try:
                return attempt()
            except TransientError as error:
                message = str(error)
                self.report(f"  {message}; retrying")
        reason = f"gave up after {MAX_ATTEMPTS} attempts: {message}"
        raise UserError(reason, "run the same command again")

    def report_call(self, rpc: str, request: Any) -> None:
        """Report a call that is not made in a dry run, with its request as JSON."""
        content = request
        if not isinstance(request, dict):
            message = type(request).pb(request) if hasattr(type(request), "pb") else request
            content = json_format.MessageToDict(message)
        self.report(f"would call {rpc} {json.dumps(content)}")

    # Errors

    def user_error(self, error: exceptions.GoogleAPICallError, action: str = "") -> UserError:
        """Return the message and hint for an error of Google's during an action."""
        reason, metadata = error.reason or "", dict(error.metadata or {})
        parsed = GoogleError(_get_status(error), _get_message(error), reason, metadata, action)
        return to_user_error(parsed, self.settings)

    def _raise(self, error: Exception, action: str = "") -> NoReturn:
        if isinstance(error, exceptions.GoogleAPICallError):
            raise self.user_error(error, action) from None
        hint = "gcloud auth application-default login"
        raise UserError(
            f"not authenticated to Google Cloud: {error}".partition("\n")[0], hint
        ) from None


def _get_status(error: exceptions.GoogleAPICallError) -> str:
    """Return the name of the google.rpc.Code in a response's body, which is finer than the HTTP status."""
    try:
        return str(error.response.json()["error"]["status"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return error.grpc_status_code.name if error.grpc_status_code else f"HTTP {error.code}"


def _get_message(error: exceptions.GoogleAPICallError) -> str:
    """Return Google's message without the URL that the client library puts before it."""
    return re.sub(r"^[A-Z]+ https?://\S+: ", "", error.message or str(error))


def _describe(error: BaseException | None) -> str:
    if isinstance(error, exceptions.GoogleAPICallError):
        return f"Google returned {error.code}"
    return "connection lost"


def _format_duration(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
