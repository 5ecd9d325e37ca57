"""The transport to Google's APIs: credentials, retries, errors, dry runs and long-running operations.

Requests and responses are the JSON of Google's REST APIs: importing the client libraries would take seconds.
"""

import functools
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry, exponential_sleep_generator, if_exception_type
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.rpc import code_pb2

from deploy.error_messages import GoogleError, to_user_error
from deploy.errors import TransientError, UserError
from deploy.settings import Settings
from deploy.text import format_duration, format_elapsed

TIMEOUT_S = 60
"""For one request."""
CONNECT_TIMEOUT_S = 5
"""For a connection to the emulator."""
RETRYABLE = (
    exceptions.ServiceUnavailable,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
    exceptions.RetryError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
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
Json = dict[str, Any]
Result = TypeVar("Result")


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

    def url(self, service: str, version: str = "v1") -> str:
        """Return the URL of a version of an API, such as https://cloudbuild.googleapis.com/v1, or of the emulator."""
        return f"{self.settings.api_endpoint or f'https://{service}.googleapis.com'}/{version}"

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

    @property
    def account(self) -> str:
        """The e-mail address of these credentials; "" if they do not contain it."""
        names = ("service_account_email", "account")
        addresses = [str(getattr(self.credentials, name, "") or "") for name in names]
        return next((address for address in addresses if "@" in address), "")

    @functools.cached_property
    def session(self) -> requests.Session:
        """An HTTP session with these credentials; raise UserError if no emulator responds."""
        if not self.settings.api_endpoint.startswith("http://"):
            return AuthorizedSession(self.credentials)
        address = urlsplit(self.settings.api_endpoint)
        try:
            host, port = address.hostname or "", address.port or 80
            socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or "timed out"
            raise UserError(
                f"no server responds at {self.settings.api_endpoint}, the setting api_endpoint: {reason}",
                "run make emulator, or unset DEPLOY_API_ENDPOINT to use Google",
            ) from None
        return requests.Session()

    # Reads

    def read(self, call: Callable[..., Result], *args: object, **options: object) -> Result:
        """Call a function that changes nothing, with retries. NotFound is not translated."""
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

    def get(self, url: str, **parameters: object) -> Json | None:
        """Return a resource; None if it does not exist."""
        try:
            return self.read(self.send, method="GET", url=url, params=parameters)
        except exceptions.NotFound:
            return None

    def query(self, url: str, body: Json) -> Json:
        """Return the response to a POST request that changes nothing."""
        return self.read(self.send, method="POST", url=url, json=body)

    def list_all(
        self, url: str, key: str, *, limit: int | None = None, **parameters: Any
    ) -> list[Json]:
        """Return the pages of a list up to `limit` items; an empty list if its parent does not exist.

        `key` is the field of the response with the items.
        """
        items: list[Json] = []
        while page := self.get(url, **parameters):
            items += page.get(key, [])
            if not page.get("nextPageToken") or (limit and len(items) >= limit):
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

    def change(
        self,
        rpc: str,
        method: str,
        url: str,
        action: str,
        body: Json | None = None,
        **parameters: str,
    ) -> Json | None:
        """Send a request that changes something, once; with `dry_run`, print the call and return None.

        `rpc` is Google's name of the method. Raises TransientError if the connection breaks: the change may or
        may not have been made.
        """
        if self.dry_run:
            name = url.partition("/projects/")[2].partition(":")[0]
            self.report_call(rpc, {"name": f"projects/{name}", **parameters, **(body or {})})
            return None
        send = functools.partial(
            self.send, method=method, url=url, json=body, params=parameters, timeout=TIMEOUT_S
        )
        return self.attempt(send, action)

    def attempt(self, send: Callable[[], Result], action: str) -> Result:
        """Call a function that changes something, once, and translate its errors; see `change`."""
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

    def run_operation(  # noqa: PLR0913, PLR0917  as `change`
        self,
        rpc: str,
        method: str,
        url: str,
        action: str,
        body: Json | None = None,
        usual: str = "",
        **parameters: str,
    ) -> None:
        """Start a long-running operation with a request, and wait for its end."""
        started = self.change(rpc, method, url, action, body, **parameters)
        if started is not None:
            self.wait(f"{url.partition('/projects/')[0]}/{started['name']}", action, usual)

    def wait(self, url: str, action: str, usual: str = "") -> None:
        """Wait until the operation at a URL ends, and report progress; raise UserError if it fails.

        `usual` is how long such an operation usually takes.
        """
        started_s = time.monotonic()
        self.report(f"→ {action}" + (f" (usually {usual})" if usual else ""))
        timed_out = UserError(
            f"timed out after {self.settings.wait_minutes} minutes ({action}); the operation continues at Google",
            "run the same command again: it waits for the same operation",
        )
        # None: Google no longer keeps the operation.
        result: Json | None = self.poll(
            lambda: self.get(url),
            lambda result: result is None or result.get("done", False),
            timed_out,
            lambda _: format_elapsed(started_s),
        )
        if result is not None and "error" in result:
            status = code_pb2.Code.Name(result["error"].get("code", code_pb2.UNKNOWN))
            message = result["error"].get("message", "")
            error = GoogleError(status, message, action=action, account=self.account)
            raise to_user_error(error, self.settings)
        self.report(f"  done after {format_duration(time.monotonic() - started_s)}")

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

    def report_call(self, rpc: str, request: Json) -> None:
        """Report a call that is not made in a dry run, with its request as JSON."""
        self.report(f"would call {rpc} {json.dumps(request)}")

    def send(self, **request: Any) -> Json:
        """Send a request and return the response's JSON; raise GoogleAPICallError."""
        response = self.session.request(**request)
        if not response.ok:
            raise exceptions.from_http_response(response)
        try:
            return dict(response.json()) if response.content else {}
        except ValueError:  # such as the page of a proxy
            raise exceptions.BadGateway("the response is not JSON") from None

    # Errors

    def user_error(self, error: exceptions.GoogleAPICallError, action: str = "") -> UserError:
        """Return the message and hint for an error of Google's during an action."""
        reason, metadata = error.reason or "", dict(error.metadata or {})
        status, message, caller = _get_status(error), _get_message(error), self.account
        parsed = GoogleError(status, message, reason, metadata, action, caller)
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
    request = getattr(error, "request", None)
    return f"connection to {urlsplit(request.url).netloc} lost" if request else "connection lost"
