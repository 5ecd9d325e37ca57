"""How Google is talked to: clients, another try, one sentence for an error, operations watched to their end."""

import functools
import json
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.api_core.retry import Retry, exponential_sleep_generator, if_exception_type
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.rpc import code_pb2

from deploy.error_messages import GoogleError, to_user_error
from deploy.errors import TransientError, UserError
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
REFUSED = (exceptions.GoogleAPICallError, DefaultCredentialsError, RefreshError)
GIVE_UP_S = 120
"""How long something is tried again while Google is busy."""
ATTEMPTS = 8
"""How often a change is made again that may or may not have been made."""
POLL_S = (1.0, 10.0)
"""Between two looks at what runs: at first, and later."""
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

    def wait(self, operation: str, doing: str, usual: str = "", client: Any = None) -> None:
        """Watch an operation until it ends, with a line now and then; raise Stop with its error, or Lost.

        `client` is that of the operation's service; Vertex AI's where it is left out.
        """
        began = time.monotonic()

        def waited(_: object) -> str:
            half_minutes = (time.monotonic() - began) // 30
            return f"{_duration(half_minutes * 30)} …" if half_minutes else ""

        self.say(f"→ {doing}" + (f" (usually {usual})" if usual else ""))
        request = operations_pb2.GetOperationRequest(name=operation)
        still = UserError(
            f"Google is still at it after {self.settings.wait_minutes} minutes ({doing})",
            "the same command again picks it up",
        )
        # None where Google forgot it.
        found: operations_pb2.Operation | None = self.poll(
            lambda: self._find((client or self._endpoints).get_operation, request=request),
            lambda found: found is None or found.done,
            still,
            waited,
        )
        if found is not None and found.HasField("error"):
            status = code_pb2.Code.Name(found.error.code)
            raise to_user_error(
                GoogleError(status, found.error.message, doing=doing), self.settings
            )
        self.say(f"  done after {_duration(time.monotonic() - began)}")

    def poll(
        self,
        look: Callable[[], Result],
        is_over: Callable[[Result], bool],
        still: UserError,
        describe: Callable[[Result], str] = lambda _: "",
    ) -> Result:
        """Call `look` until what it returns is over, with a line whenever its description has changed.

        Raises:
            Stop: it is `still`, after `wait_minutes`.

        """
        deadline = time.monotonic() + self.settings.wait_minutes * 60
        pauses_s, told = exponential_sleep_generator(POLL_S[0], POLL_S[-1]), ""
        while not is_over(found := look()):
            if (line := describe(found)) != told:
                told = line
                self.say(f"  {line}")
            if time.monotonic() > deadline:
                raise still
            time.sleep(next(pauses_s))
        return found

    def until_made(self, make: Callable[[], Result]) -> Result:
        """Call `make` again as long as its connection breaks: it looks at what there is, and goes on."""
        for _ in range(ATTEMPTS):
            try:
                return make()
            except TransientError as lost:
                self.say(f"  {lost}; looking again")
        raise UserError("the connection breaks again and again", "run the same command again")

    # For the parts that know what to say

    def _start(self, doing: str, call: Any, request: Any, usual: str = "") -> None:
        """Begin a long-running operation by a client's method and watch it to its end."""
        begun = self._change(doing, call, request)
        if begun is not None:
            self.wait(begun.operation.name, doing, usual, call.__self__)

    def _change(self, doing: str, call: Any, request: Any) -> Any:
        """Make a change once, by a client's method; with `dry_run`, print it and return None.

        Whether one whose connection broke was made, only another look can tell: that is Lost.
        """
        if self.dry_run:
            service = type(call.__self__).__name__.removesuffix("Client")
            self._would(f"{service}.{call.__name__.title().replace('_', '')}", request)
            return None
        try:
            return call(request, timeout=TIMEOUT_S, retry=None)
        except exceptions.Conflict as error:
            raise TransientError(f"{_text(error)} ({doing})") from None
        except BUSY as error:
            if isinstance(error, exceptions.TooManyRequests) and "quota" in str(error).lower():
                self._refuse(error, doing)
            raise TransientError(f"{_short(error)} ({doing})") from None
        except REFUSED as error:
            self._refuse(error, doing)

    def _would(self, rpc: str, request: Any) -> None:
        content = request
        if not isinstance(request, dict):
            plain = type(request).pb(request) if hasattr(type(request), "pb") else request
            content = json_format.MessageToDict(plain)
        self.say(f"would call {rpc} {json.dumps(content)}")

    def _read(self, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Call what only reads, again while Google is busy or the connection broken; NotFound goes through."""
        retry = Retry(
            if_exception_type(*BUSY),
            initial=0.5,
            maximum=30.0,
            timeout=GIVE_UP_S,
            on_error=lambda error: self.say(f"  {_short(error)}; trying again"),
        )
        try:
            return retry(call)(*given, timeout=TIMEOUT_S, **options)
        except exceptions.NotFound:
            raise
        except exceptions.RetryError as error:
            raise UserError(
                f"Google does not answer: {_short(error.cause)}",
                "run the same command again: it goes on where it was",
            ) from None
        except REFUSED as error:
            self._refuse(error, "")

    def _find(self, call: Callable[..., Any], **options: Any) -> Any:
        """Return what a method reads; None where it does not exist."""
        try:
            return self._read(call, **options)
        except exceptions.NotFound:
            return None

    def _list(self, call: Callable[..., Any], *given: Any, **options: Any) -> list[Any]:
        """Return everything that a method lists, page by page; nothing where its parent does not exist."""
        found = self._find(lambda **more: list(call(*given, **options, **more)))
        return found or []

    def _refuse(self, error: Exception, doing: str) -> NoReturn:
        if isinstance(error, exceptions.GoogleAPICallError):
            raise to_user_error(said(error, doing), self.settings) from None
        raise UserError(
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
            raise UserError(
                "no credentials for Google Cloud", "gcloud auth application-default login"
            ) from None

    @functools.cached_property
    def _session(self) -> Any:
        if self.settings.api_endpoint.startswith("http://"):
            return requests.Session()
        return AuthorizedSession(self._credentials)

    def _client(self, kind: Any, host: str = "", dedicated: str = "") -> Any:
        where = dedicated or self.settings.api_endpoint or host
        options = ClientOptions(api_endpoint=where) if where else None
        return kind(credentials=self._credentials, transport="rest", client_options=options)

    @functools.cached_property
    def _endpoints(self) -> Any:
        return self._client(v1.EndpointServiceClient, self._vertex)

    @property
    def _vertex(self) -> str:
        return f"{self.settings.region}-aiplatform.googleapis.com"


def said(error: exceptions.GoogleAPICallError, doing: str) -> GoogleError:
    """Return an error in the words that explain knows."""
    return GoogleError(
        _status(error), _text(error), error.reason or "", dict(error.metadata or {}), doing
    )


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
