"""How Google is talked to: clients, another try, one sentence for an error, operations watched to their end."""

import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.rpc import code_pb2

from deploy.errors import Lost, Stop
from deploy.explain import Said, explain
from deploy.settings import Settings

TIMEOUT_S = 60
BUSY = (
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
"""Worth another try, but for a 429 that names a quota."""
PAUSES_S = (0.5, 1, 2, 4, 8, 15, 30, 60)
POLL_S = (1, 1, 2, 3, 5, 5, 10)
Result = TypeVar("Result")


class Wire:
    """One project and region of Google Cloud.

    Every method raises Stop for an error that a person must see to, and Lost for one that another look
    may mend.
    """

    def __init__(
        self, settings: Settings, say: Callable[[str], None] = print, *, dry_run: bool = False
    ) -> None:
        """Say by `say` what is done; with `dry_run`, print the changes and make none."""
        self.settings, self.say, self.dry_run = settings, say, dry_run

    def wait(self, operation: str, doing: str, usual: str = "") -> None:
        """Watch an operation until it ends, with a line now and then; raise Stop with its error, or Lost."""
        began, told, tries = time.monotonic(), 0.0, 0
        self.say(f"→ {doing}" + (f" (usually {usual})" if usual else ""))
        while True:
            found = self._poll(operation)
            waited = time.monotonic() - began
            if found is None or found.done:
                break
            if waited > self.settings.wait_minutes * 60:
                raise Stop(
                    f"Google is still at it after {self.settings.wait_minutes} minutes ({doing})",
                    "the same command again picks it up",
                )
            if waited - told >= 30:
                told = waited
                self.say(f"  {_duration(waited)} …")
            time.sleep(POLL_S[min(tries, len(POLL_S) - 1)])
            tries += 1
        if found is not None and found.HasField("error"):
            raise explain(
                Said(code_pb2.Code.Name(found.error.code), found.error.message, doing=doing),
                self.settings,
            )
        self.say(f"  done after {_duration(time.monotonic() - began)}")

    # For the parts that know what to say

    def _operations(self, operation: str) -> Any:
        """Return the client that knows an operation."""
        raise NotImplementedError

    def _poll(self, operation: str) -> operations_pb2.Operation | None:
        """Return an operation, however often the connection breaks; None where Google forgot it."""
        request = operations_pb2.GetOperationRequest(name=operation)
        try:
            return self._read(
                lambda: self._operations(operation).get_operation(
                    request=request, timeout=TIMEOUT_S
                )
            )
        except exceptions.NotFound:
            return None

    def _start(
        self, doing: str, rpc: str, request: Any, call: Callable[..., Any], usual: str = ""
    ) -> None:
        """Begin a long-running operation and watch it to its end."""
        if self.dry_run:
            self._would(rpc, request)
            return
        began = self._mutate(doing, request, call)
        self.wait(began.operation.name, doing, usual)

    def _change(self, doing: str, rpc: str, request: Any, call: Callable[..., Any]) -> Any:
        if self.dry_run:
            self._would(rpc, request)
            return None
        return self._mutate(doing, request, call)

    def _would(self, rpc: str, request: Any) -> None:
        if isinstance(request, dict):
            content = request
        elif hasattr(type(request), "pb"):
            content = json_format.MessageToDict(type(request).pb(request))
        else:
            content = json_format.MessageToDict(request)
        self.say(f"would call {rpc} {json.dumps(content)}")

    def _mutate(self, doing: str, request: Any, call: Callable[..., Any]) -> Any:
        """Make a change once. Whether one whose connection broke was made, only another look can tell."""
        try:
            return call(request, timeout=TIMEOUT_S, retry=None)
        except exceptions.Conflict as error:
            raise Lost(f"{_text(error)} ({doing})") from None
        except BUSY as error:
            if isinstance(error, exceptions.TooManyRequests) and "quota" in str(error).lower():
                raise explain(said(error, doing), self.settings) from None
            raise Lost(f"{_short(error)} ({doing})") from None
        except (exceptions.GoogleAPICallError, DefaultCredentialsError, RefreshError) as error:
            self._refuse(error, doing)

    def _read(self, ask: Callable[[], Result]) -> Result:
        """Ask for something, again while Google is busy or the connection broken; NotFound goes through."""
        pauses: Iterator[float] = iter(PAUSES_S)
        while True:
            try:
                return ask()
            except exceptions.NotFound:
                raise
            except BUSY as error:
                pause = next(pauses, None)
                if pause is None:
                    raise Stop(
                        f"Google does not answer: {_short(error)}",
                        "run the same command again: it goes on where it was",
                    ) from None
                if pause > 1:
                    self.say(f"  {_short(error)}; again in {pause:g} s")
                time.sleep(pause)
            except (exceptions.GoogleAPICallError, DefaultCredentialsError, RefreshError) as error:
                self._refuse(error, "")

    def _refuse(self, error: Exception, doing: str) -> NoReturn:
        if isinstance(error, exceptions.GoogleAPICallError):
            raise explain(said(error, doing), self.settings) from None
        raise Stop(
            f"no credentials: {error}".partition("\n")[0], "gcloud auth application-default login"
        ) from None

    @functools.cached_property
    def _credentials(self) -> Any:
        if self.settings.api_endpoint.startswith("http://"):
            return AnonymousCredentials()
        try:
            return google.auth.default(
                scopes=["https://www.googleapis.com/auth/cloud-platform"],
                quota_project_id=self.settings.project,
            )[0]
        except DefaultCredentialsError:
            raise Stop(
                "no credentials for Google Cloud", "gcloud auth application-default login"
            ) from None

    @functools.cached_property
    def _session(self) -> Any:
        if self.settings.api_endpoint.startswith("http://"):
            return requests.Session()
        return AuthorizedSession(self._credentials)

    def _client(self, kind: Any, host: str = "") -> Any:
        where = self.settings.api_endpoint or host
        options = ClientOptions(api_endpoint=where) if where else None
        return kind(credentials=self._credentials, transport="rest", client_options=options)

    @property
    def _vertex(self) -> str:
        return f"{self.settings.region}-aiplatform.googleapis.com"


def said(error: exceptions.GoogleAPICallError, doing: str) -> Said:
    """Return an error in the words that explain knows."""
    return Said(_status(error), _text(error), error.reason or "", dict(error.metadata or {}), doing)


def _status(error: exceptions.GoogleAPICallError) -> str:
    """Return google.rpc.Code's name from an answer's body, which is finer than HTTP's number."""
    try:
        return str(error.response.json()["error"]["status"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return error.grpc_status_code.name if error.grpc_status_code else f"HTTP {error.code}"


def _text(error: exceptions.GoogleAPICallError) -> str:
    """Return Google's words without the URL that its library puts before them."""
    return re.sub(r"^[A-Z]+ https?://\S+: ", "", error.message or str(error))


def _short(error: Exception) -> str:
    if isinstance(error, exceptions.GoogleAPICallError):
        return f"Google answers {error.code}"
    return "the connection broke"


def _duration(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
