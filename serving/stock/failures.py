"""Describe the exceptions of a stock archive's handler, for the log and for the client."""

import binascii
import importlib.util
import logging
import re
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    from handler.device_memory import is_out_of_memory
    from handler.errors import InternalError, InvalidArgumentError, LoadError, RequestError
else:  # in an archive, which may have a `handler` of its own
    from .device_memory import is_out_of_memory
    from .errors import InternalError, InvalidArgumentError, LoadError, RequestError

PICKLE_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
MAX_REASON_CHARS = 2000
NOT_ASCII = "string argument should contain only ASCII characters"
"""What base64.b64decode raises as a mere ValueError."""
STATUS_NAMES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's status by HTTP code; INVALID_ARGUMENT for other codes below 500, else INTERNAL."""

OWN_LOGGERS = ("serving_worker", "vertex_")
"""What the names of this project's loggers in a worker start with."""

log = logging.getLogger(__name__)


class CountError(Exception):
    """The handler returned another number of responses than it got requests or instances."""


class HandlerError(RequestError):
    """An error with the status and the message that the handler has chosen."""

    def __init__(self, message: str, code: HTTPStatus) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> str:
        """Google's status for the HTTP code."""
        return STATUS_NAMES.get(self.code, "INVALID_ARGUMENT" if self.code < 500 else "INTERNAL")


def restore_logs(handlers: list[logging.Handler]) -> None:
    """Let this project's errors be logged as before, whatever the archive's handler has configured.

    logging.config.dictConfig, for example, disables all other loggers. `handlers` were those of the root logger.
    """
    if logging.root.manager.disable >= logging.ERROR:
        logging.disable(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith(OWN_LOGGERS):
            logger.disabled = False
            if logger.getEffectiveLevel() > logging.ERROR:
                logger.setLevel(logging.ERROR)
            if logging.root.handlers != handlers:
                logger.handlers, logger.propagate = handlers, False


def check_count(results: Any, count: int, expected: str) -> None:
    """Raise CountError unless the results are a list, or a tuple, of `count` elements."""
    if not isinstance(results, (list, tuple)):
        kind = "None" if results is None else type(results).__name__
        raise CountError(f"{kind}; expected a list with one response for each {expected}")
    if len(results) != count:
        responses = f"{len(results)} response{'s' * (len(results) != 1)}"
        raise CountError(f"{responses} for {count} {expected}{'s' * (count != 1)}")


def to_load_error(error: BaseException, handler: str, folder: Path) -> LoadError:
    """Return the error that ends the worker, with the reason and where in the archive it was raised."""
    error = _find_import_error(error, handler)
    own = f"ts.torch_handler.{_find_module(handler)}"
    if isinstance(error, ModuleNotFoundError) and error.name == own:
        return LoadError(f"the handler {handler} is neither in the archive nor TorchServe's own")
    return LoadError(f"{_describe(error)}{_format_location(error, folder)}")


def to_request_error(error: BaseException, folder: Path) -> RequestError:
    """Return the error of a request for an exception of the handler; log those of the server."""
    if isinstance(error, PredictionException):
        return _to_handler_error(error)
    if reason := _find_client_fault(error):
        return InvalidArgumentError(reason)
    if isinstance(error, CountError):
        log.error("the archive's handler returned %s", error)
        return InternalError(f"the archive's handler returned {error}")
    location = _format_location(error, folder)
    if isinstance(error, TypeError) and "JSON serializable" in str(error) and not location:
        # Raised by TorchServe's envelope, not by code of the archive.
        log.error("the archive's handler returned no JSON: %s", error)
        return InternalError(f"the archive's handler returned no JSON: {error}")
    log.error("the archive's handler failed: %s%s", _describe(error), location, exc_info=error)
    if is_out_of_memory(error):
        text = "the archive's handler is out of memory; send a smaller request, or retry"
        return HandlerError(text, HTTPStatus.SERVICE_UNAVAILABLE)
    return InternalError(f"the archive's handler failed: {type(error).__name__}")


def _to_handler_error(error: PredictionException) -> HandlerError:
    try:
        code = HTTPStatus(error.error_code)
    except ValueError:
        code = HTTPStatus.INTERNAL_SERVER_ERROR
    if code < 400:
        code = HTTPStatus.INTERNAL_SERVER_ERROR
    if code >= 500:
        log.error("the archive's handler failed", exc_info=error)
    return HandlerError(str(error.message), code)


def _find_client_fault(error: BaseException) -> str:
    """Return what is wrong with a request whose instance cannot be decoded, else ""."""
    if isinstance(error, UnidentifiedImageError):
        return "an instance is not an image in a readable format"
    if isinstance(error, OSError) and "image file is truncated" in str(error):
        return "an instance is an incomplete image"
    if isinstance(error, Image.DecompressionBombError):
        return f"an instance is too large an image: {error}"
    if isinstance(error, binascii.Error) or str(error) == NOT_ASCII:
        return f"an instance is not base64: {error}"
    if isinstance(error, UnicodeDecodeError):
        return f"an instance is not {error.encoding} text: {error.reason}"
    return ""


def _find_import_error(error: BaseException, handler: str) -> BaseException:
    """Return the exception of the import that failed first.

    TorchServe imports a handler that cannot be imported once more, as one of its own.
    """
    first = error.__context__
    frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    is_repeated = isinstance(first, ImportError) and "_load_default_handler" in frames
    if first and is_repeated and importlib.util.find_spec(_find_module(handler)):
        return first
    return error


def _find_module(handler: str) -> str:
    """Return the module of a handler given as FILE, FILE.py or FILE.py:FUNCTION."""
    return handler.split(":", 1)[0].rsplit("/", 1)[-1].removesuffix(".py")


def _describe(error: BaseException) -> str:
    """Return an exception in one line, with what to do where that is known."""
    for cause in _list_causes(error):
        if isinstance(cause, UnpicklingError) and "weights_only" in str(cause):
            found = re.search(r"GLOBAL (\S+)", str(cause))
            name = f" ({found[1]})" if found else ""
            return (
                f"UnpicklingError: Weights only load failed: a file is a pickle of more than weights{name}; "
                f"if you trust the archive, set {PICKLE_VARIABLE}=1 in the environment"
            )
    is_bare = isinstance(getattr(error, "obj", None), (str, bytes, list, int, float))
    if isinstance(error, AttributeError) and error.name == "get" and is_bare:
        return f"{type(error).__name__}: {error}; if it expects objects with `data`, set WRAP_INSTANCES=data"
    reason = " ".join(str(error).split())
    shortened = reason if len(reason) <= MAX_REASON_CHARS else f"{reason[:MAX_REASON_CHARS]}..."
    return f"{type(error).__name__}: {shortened}"


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _format_location(error: BaseException, folder: Path) -> str:
    """Return " (FILE:LINE)" of the last call in a file of the archive; "" if there is none."""
    folder = folder.resolve()  # TorchServe links to it
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<"):  # Python's own importer: no file
            continue
        file = Path(frame.filename).resolve()
        if file.is_relative_to(folder):
            name = file.relative_to(folder)
            if not name.parts[0].startswith(("vertex_stock_handler.", "vertex_core")):
                return f" ({name}:{frame.lineno})"
    return ""
