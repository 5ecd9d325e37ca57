"""Rules for the fields of Google's types, read from the documentation of the types.

The documentation of a field says in set phrases whether it is required, how long it may be, which characters,
numbers and durations are valid, and which other fields exclude it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import proto
from google.protobuf import message
from google.protobuf.descriptor import FieldDescriptor

from emulator.errors import invalid_argument

Check = Callable[[Any], str]
"""Value of a field → what is wrong with it, or ""."""
UNITS = {"second": 1, "minute": 60, "hour": 3600}
INTERNATIONAL_LABEL = re.compile(r"[\w-]*")
PARTS = re.compile(
    r"^ +(\w+) \([^\n]*\):\n(.*?)(?=^ +\w+ \([^\n]*\):\n|\Z)", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\[[\w.]+\]")


class FieldRules(NamedTuple):
    """The rules of one field."""

    is_required: bool
    excludes: frozenset[str]
    """Fields of the same message of which only one may be set."""
    checks: tuple[Check, ...]


def check_request(request: Any, message_type: Any, *, optional: Collection[str] = ()) -> None:
    """Raise ApiError if a request of Google's type breaks a rule of its fields.

    `optional` are fields of the request that are not required.
    """
    if not issubclass(message_type, proto.Message):
        return
    # An update has only the fields that its mask names.
    is_update = "update_mask" in message_type.meta.fields
    _check(request, message_type, "", recursive=not is_update, optional=optional)
    if is_update:
        _check_updated(request, message_type)


def _check_updated(request: Any, message_type: Any) -> None:
    """Check the values that an update sets; a missing one is no error."""
    for name, field in message_type.meta.fields.items():
        if _is_message(field.message) and name != "update_mask":
            _check(
                getattr(request, name), field.message, f"{name}.", recursive=True, values_only=True
            )


def _check(  # noqa: PLR0913  all are needed at each level
    request: Any,
    message_type: Any,
    prefix: str,
    *,
    recursive: bool,
    optional: Collection[str] = (),
    values_only: bool = False,
) -> None:
    protobuf = message_type.pb(request)
    rules = read_rules(message_type)
    present = {field.name for field in protobuf.DESCRIPTOR.fields if _is_set(protobuf, field)}
    for field in protobuf.DESCRIPTOR.fields:
        rule, name = rules.get(field.name), f"{prefix}{field.name}"
        if field.name not in present:
            if field.name == "min_replica_count" and "initial_replica_count" in present:
                continue  # scale to zero, in v1beta1
            # An enum's first value is not serialized, so it looks like a missing one.
            is_enum = field.type == FieldDescriptor.TYPE_ENUM
            if (
                rule
                and rule.is_required
                and not values_only
                and not is_enum
                and field.name not in optional
            ):
                raise invalid_argument(f"Required field is not set: {name}.")
            continue
        value = getattr(request, _python_name(field.name, message_type))
        if rule:
            _check_value(value, rule, name, present)
        inner = _message_of(message_type, field.name)
        if not recursive or inner is None:
            continue
        options = {"recursive": True, "values_only": values_only}
        if not field.is_repeated:
            _check(value, inner, f"{name}.", **options)
        elif not field.message_type.GetOptions().map_entry:
            for index, item in enumerate(value):
                _check(item, inner, f"{name}[{index}].", **options)


def _check_value(value: Any, rule: FieldRules, name: str, present: set[str]) -> None:
    if both := rule.excludes & present:
        parent = name.rpartition(".")[0]
        other = f"{parent}.{min(both)}" if parent else min(both)
        raise invalid_argument(f"Only one of {name} and {other} can be set.")
    for check in rule.checks:
        if wrong := check(value):
            raise invalid_argument(f"Invalid value for {name}: {wrong}")


def _is_message(message_type: Any) -> bool:
    return isinstance(message_type, type) and issubclass(message_type, proto.Message)


def _python_name(name: str, message_type: Any) -> str:
    """Return the attribute of a field: proto-plus adds _ to reserved words."""
    return name if name in message_type.meta.fields else f"{name}_"


def _message_of(message_type: Any, name: str) -> Any:
    field = message_type.meta.fields.get(_python_name(name, message_type))
    return field.message if field is not None and _is_message(field.message) else None


def _is_set(protobuf: message.Message, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return bool(protobuf.HasField(field.name))
    value = getattr(protobuf, field.name)
    return bool(value) if field.is_repeated else bool(value != field.default_value)


@cache
def read_rules(message_type: Any) -> Mapping[str, FieldRules]:
    """Return the rules of a type's fields."""
    texts = read_texts(message_type)
    rules = {}
    for name, text in texts.items():
        excluded = frozenset(other for other in _read_exclusive(text) if other in texts) - {name}
        is_label_map = "Label keys and values" in text
        checks = [_check_labels] if is_label_map else list(_read_checks(text))
        is_required = text.startswith("Required.")
        if is_required or excluded or checks:
            rules[name.rstrip("_")] = FieldRules(is_required, excluded, tuple(checks))
    return rules


@cache
def read_texts(message_type: Any) -> Mapping[str, str]:
    """Return the documentation of a type's fields, each in one line and without links."""
    part = (message_type.__doc__ or "").partition("Attributes:")[2]
    return {name: LINK.sub("]", " ".join(text.split())) for name, text in PARTS.findall(part)}


def _read_exclusive(text: str) -> Iterator[str]:
    """Yield the fields of which only one may be set."""
    for sentence in (
        r"Only one of (?:the fields, )?(.+?),? can be set",
        r"(?:^|\. )([^.]*) are mutually exclusive",
        r"Exactly one of (.+?) must be set",
        r"When (\w+ is populated, .+?) must be empty",
    ):
        for found in re.findall(sentence, text):
            yield from re.findall(r"[a-z]+(?:_[a-z]+)+|(?<=\[)[a-z]+(?=\])|\bmodel\b", found)


def _read_checks(text: str) -> Iterator[Check]:
    yield from _read_text_checks(text)
    if found := re.search(r"[Ll]imit for [a-z ]+ is (\d+) (second|minute|hour)s?", text):
        yield _at_most_seconds(int(found[1]) * UNITS[found[2]])
    if found := re.search(r"\[MinValue=(\d+)\].*\[MaxValue=(\d+)\]", text):
        yield _at_least_seconds(int(found[1]))
        yield _at_most_seconds(int(found[2]))
    if found := re.search(r"(?:Minimum value is|must be greater than or equal to) (\d+)", text):
        yield _in_range(int(found[1]), None)
    if found := re.search(r"in the range (\d+) to (\d+)", text):
        yield _in_range(int(found[1]), int(found[2]))
    if found := re.search(r"fraction in range ?\((\d+),(\d+)\]", text):
        yield _in_range(int(found[1]), int(found[2]), above=True)


def _read_text_checks(text: str) -> Iterator[Check]:
    if (
        "If the first character is" in text
    ):  # the ID of an endpoint: endpoints.py has its two patterns
        return
    if found := re.search(r"up to (\d+) (?:Unicode )?characters(?: long)?", text):
        yield _at_most_characters(int(found[1]))
    if found := re.search(r"should be \d+-(\d+) characters", text):
        yield _at_most_characters(int(found[1]))
    if found := re.search(r"valid characters are ``/?(\[[^]`]+\])/?``", text):
        yield _characters(found[1])
    if "The first character cannot be a number or hyphen" in text:
        yield _matches(r"[^0-9-].*", "the first character cannot be a number or a hyphen")
    if values := re.search(r"Supported values are: (.*)", text):
        names = re.findall(r"(?:^|[ ])- ``(\w+)``:", values[1])
        if names:
            yield _one_of(names)
    if '"/\\*" is the only supported value' in text:
        yield _one_of(["/*"])


def _check_labels(labels: Mapping[str, str]) -> str:
    for key, value in labels.items():
        for part in (key, value):
            is_valid = INTERNATIONAL_LABEL.fullmatch(part) and part == part.lower()
            if not is_valid or len(part) > 64 or (part is key and not key):
                return (
                    f"Invalid label {key}={value}: expected lowercase letters, digits, _ and -, "
                    "64 characters at most."
                )
    return ""


def _at_most_characters(limit: int) -> Check:
    return lambda text: (
        f"it has {len(text)} characters, {limit} at most." if len(text) > limit else ""
    )


def _characters(characters: str) -> Check:
    return lambda text: (
        ""
        if re.fullmatch(f"{characters}+", text)
        else f"{text}: valid characters are {characters}."
    )


def _matches(pattern: str, expected: str) -> Check:
    return lambda text: "" if re.fullmatch(pattern, text) else f"{text}: {expected}."


def _one_of(names: list[str]) -> Check:
    return lambda text: "" if text in names else f"{text}: expected one of {', '.join(names)}."


def _in_range(low: int, high: int | None, *, above: bool = False) -> Check:
    start = f"above {low}" if above else f"{low} or more"
    expected = f"{start}, {high} at most" if high is not None else start

    def check(value: float) -> str:
        is_low = value <= low if above else value < low
        is_high = high is not None and value > high
        return f"{value:g}: expected {expected}." if is_low or is_high else ""

    return check


def _at_most_seconds(limit: int) -> Check:
    return lambda value: (
        f"{value.total_seconds():g} s: {limit} s at most." if value.total_seconds() > limit else ""
    )


def _at_least_seconds(limit: int) -> Check:
    return lambda value: (
        f"{value.total_seconds():g} s: {limit} s at least." if value.total_seconds() < limit else ""
    )
