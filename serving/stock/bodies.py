"""Parse the body of a request as a stock archive's handler expects it, and check the body of the response."""

import binascii
import json
from base64 import b64decode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from handler import envelope
    from handler.errors import InternalError, InvalidArgumentError, UnsupportedMediaTypeError
else:  # in an archive, which may have a `handler` of its own
    from . import envelope
    from .errors import InternalError, InvalidArgumentError, UnsupportedMediaTypeError

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def read_raw(item: dict[str, Any], media_type: str) -> Any:
    """Return a body as TorchServe passes it: a text as str, all else as bytes; raise UnsupportedMediaTypeError."""
    if media_type in FORMS or "body" not in item:
        expected = "expected application/json, or the type of a file that is sent without a form"
        raise UnsupportedMediaTypeError(f"Content-Type: {expected}; got {media_type}")
    body = item["body"]
    if media_type.startswith("text/") and not isinstance(body, str):
        try:
            return bytes(body).decode()
        except UnicodeDecodeError:
            return body
    return body


def parse_json(item: dict[str, Any]) -> Any:
    """Return a body's JSON, which may contain NaN; raise InvalidArgumentError."""
    body = item.get("body", item.get("data"))
    if not isinstance(body, (bytes, bytearray)):
        raise InvalidArgumentError("expected a JSON body with Content-Type: application/json")
    return envelope.parse_json(bytes(body))


def parse_instances(document: Any, key: str) -> dict[str, Any]:
    """Return the instances of a document, if TorchServe's JSON envelope can decode them.

    With a `key` an instance without it becomes {key: instance}. Raises InvalidArgumentError.
    """
    instances = envelope.parse_instances(document)
    if key:
        instances = [
            item if isinstance(item, dict) and key in item else {key: item} for item in instances
        ]
    if isinstance(instances[0], dict):
        for index, instance in enumerate(instances):
            if not isinstance(instance, dict):
                reason = f"instances[{index}]: expected an object, like instances[0]"
                raise InvalidArgumentError(reason)
            for field, value in [("", instance), *((f".{k}", v) for k, v in instance.items())]:
                if isinstance(value, dict) and list(value) == ["b64"]:
                    _check_base64(value["b64"], f"instances[{index}]{field}.b64")
    return {"instances": instances}


def copy_body(body: Any) -> Any:
    """Copy what the envelope changes: the array of instances and the objects in it."""
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        return body
    instances = [dict(item) if isinstance(item, dict) else item for item in body["instances"]]
    return body | {"instances": instances}


def check_response(body: Any, is_json: bool, instances: int) -> Any:
    """Return the body of a response, all but text and bytes as JSON; raise RequestError if it cannot be sent."""
    if not isinstance(body, (str, bytes, bytearray, torch.Tensor, Iterator)):
        try:
            body, is_json = json.dumps(body, indent=2), True  # as TorchServe formats it
        except (TypeError, ValueError) as error:
            raise InternalError(f"the archive's handler returned no JSON: {error}") from None
    if not isinstance(body, (str, bytes, bytearray)):
        return body
    size = len(body.encode(errors="replace") if isinstance(body, str) else body)
    if size > envelope.MAX_RESPONSE_BYTES:
        reason = f"the response has {size} bytes, the limit is {envelope.MAX_RESPONSE_BYTES}"
        if instances > 1:
            raise InvalidArgumentError(f"{reason}: send fewer instances in a request")
        raise InternalError(reason)
    if is_json and isinstance(body, str) and ("NaN" in body or "Infinity" in body):
        try:
            json.loads(body, parse_constant=_reject_constant)
        except ValueError:
            return body  # a text
    return body


def _reject_constant(constant: str) -> NoReturn:
    raise InternalError(f"the archive's handler returned {constant}, which is not a JSON number")


def _check_base64(text: Any, path: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{path}: expected a string")
    if text.startswith("data:"):
        reason = "expected base64, got a data: URL; send only what follows the comma"
        raise InvalidArgumentError(f"{path}: {reason}")
    try:
        is_invalid = bool(text) and not b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f"{path}: not base64: {error}") from None
    if is_invalid:
        raise InvalidArgumentError(f"{path}: not base64")
