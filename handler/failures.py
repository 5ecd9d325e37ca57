"""Decide whose fault an exception of a task is: the client's, with a 400, or the model's, with a 500."""

import logging
import re
import traceback

from handler.device_memory import is_out_of_memory, release_memory
from handler.errors import (
    InternalError,
    InvalidArgumentError,
    InvalidParameterError,
    OutOfMemoryError,
    RequestError,
)
from task import JSON, BadInstance, BadParameter
from task.adapter import AdaptedTask

LEADING_NAME = re.compile(r"[\w.\-\[\]]+: ")
"""The parameter's name at the start of a BadParameter's text."""

log = logging.getLogger(__name__)


class Failures:
    """Turns the exceptions of one batch into errors of requests, and logs each cause once.

    One fault of a model may fail all of 4096 instances, with the same traceback.
    """

    def __init__(self, task: AdaptedTask) -> None:
        self._task = task
        self._logged: set[tuple[object, ...]] = set()
        self.has_any = False
        """Whether a sample of the batch failed, for whatever reason."""

    def to_request_error(
        self, step: str, error: Exception, instance: JSON, parameters: dict[str, JSON]
    ) -> RequestError:
        """Return the error that an instance gets because a step, such as "inference", failed for it alone."""
        self.has_any = True
        if isinstance(error, BadInstance):
            return InvalidArgumentError(str(error))
        if isinstance(error, BadParameter):
            return InvalidParameterError(locate_parameter(str(error)))
        if mismatch := self._task.schema.find_parameter_mismatch(parameters):
            self.log_once(f"{step} failed on invalid parameters", error, logging.WARNING)
            return InvalidParameterError(locate_parameter(mismatch))
        if mismatch := self._task.schema.find_instance_mismatch(instance):
            self.log_once(f"{step} failed on an invalid instance", error, logging.WARNING)
            return InvalidArgumentError(mismatch)
        return self.to_task_error(step, error)

    def to_task_error(self, step: str, error: Exception) -> RequestError:
        """Return the error of an instance that is valid, and log its cause: no memory, or a fault of the task."""
        if not is_out_of_memory(error):
            return self.to_internal_error(f"{step} failed", error)
        self.has_any = True
        release_memory(error)
        self.log_once(f"{step} of one instance needs more memory than the device has", error)
        return OutOfMemoryError(
            f"{step} needs more memory than the device has free; send a smaller instance, or retry"
        )

    def to_internal_error(self, message: str, error: Exception) -> InternalError:
        """Return the error of an instance for which the task failed, and log its cause."""
        self.has_any = True
        self.log_once(message, error)
        return InternalError(message, describe_exception(error))

    def log_once(self, message: str, error: Exception, level: int = logging.ERROR) -> None:
        """Log an error with its traceback, unless one of the same type from the same line was logged."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (frames[-1].filename, frames[-1].lineno) if frames else ()
        key = (message, type(error), *place)
        if key not in self._logged:
            self._logged.add(key)
            log.log(level, "%s: %s", message, error, exc_info=error)


def locate_parameter(text: str) -> str:
    """Return the text of a BadParameter with the location in the request."""
    if text.startswith(("parameters.", "parameters:")):
        return text
    return f"parameters.{text}" if LEADING_NAME.match(text) else f"parameters: {text}"


def describe_exception(error: BaseException) -> str:
    """Return the type and text of an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
