"""Lists: filters, orders, pages and read masks, as the documentation of each request describes them.

Filters follow https://google.aip.dev/160, with the fields and the comparisons that the documentation names.
"""

import datetime
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import proto
from google.protobuf import field_mask_pb2

from emulator.errors import invalid_argument
from emulator.field_rules import read_texts

TOKEN = re.compile(
    r'\s*(?:(\(|\)|!=|<=|>=|=|<|>|:)|((?:[^\s()!<>=:"]|"(?:[^"\\]|\\.)*")+))', re.DOTALL
)
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=", ":")
MAX_PAGE_SIZE = 100
ID_FIELDS = frozenset({"model", "endpoint", "model_id", "name"})
"""Fields of a filter that mean the last part of a resource's name."""
Predicate = Callable[[Any], bool]


def list_page(items: Iterable[Any], request: Any) -> tuple[list[Any], str]:
    """Return the items that match a list request, on its page, and the next page's token; raise ApiError."""
    matching = list(items)
    if expression := getattr(request, "filter", ""):
        is_match = parse_filter(expression, type(request))
        matching = [item for item in matching if is_match(item)]
    if order := getattr(request, "order_by", ""):
        matching = _sort(matching, order, type(request))
    page, token = get_page(matching, request.page_size, request.page_token)
    if paths := getattr(getattr(request, "read_mask", None), "paths", None):
        page = [_select_fields(item, list(paths)) for item in page]
    return page, token


def get_page(items: Sequence[Any], size: int | str, token: str) -> tuple[list[Any], str]:
    """Return the items of a page, and the token of the next page; raise ApiError."""
    if not re.fullmatch("[0-9]*", token) or not re.fullmatch("[0-9]+", str(size)):
        wrong = f"page_size: {size}" if re.fullmatch("[0-9]*", token) else f"page_token: {token}"
        raise invalid_argument(f"Invalid {wrong}.")
    first = int(token or 0)
    end = first + min(int(size) or MAX_PAGE_SIZE, MAX_PAGE_SIZE)
    return list(items[first:end]), str(end) if len(items) > end else ""


def parse_filter(expression: str, request_type: Any) -> Predicate:
    """Return the predicate of a filter; raise ApiError for a field or a comparison that is not documented."""
    return _FilterParser(expression, _documented_comparisons(request_type)).parse()


def _documented_comparisons(request_type: Any) -> dict[str, tuple[str, ...]]:
    """Return field → comparisons, from the documentation of a request's filter; {}: any field."""
    if not (isinstance(request_type, type) and issubclass(request_type, proto.Message)):
        return {}
    text = read_texts(request_type).get("filter", "").partition("xamples")[0]
    comparisons = {}
    for name, operators in re.findall(
        r"- ``([a-z_.]+)``:? (?:only )?[Ss]upports ([^.]*?)(?=\.| - |$)", text
    ):
        found = re.findall(r"(?<![!<>=])(!=|<=|>=|=|<|>|:)", operators)
        comparisons[name] = tuple(found) or COMPARISONS
    return comparisons


class _FilterParser:
    """A recursive-descent parser. As in AIP-160, OR binds more tightly than AND."""

    def __init__(self, expression: str, documented: dict[str, tuple[str, ...]]) -> None:
        self._expression, self._documented = expression, documented
        self._tokens: list[str] = []
        position, text = 0, expression.strip()
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise self._error(f"cannot be read at {text[position:]!r}")
            self._tokens.append(match[1] or match[2])
            position = match.end()

    def parse(self) -> Predicate:
        predicate = self._conjunction()
        if self._tokens:
            raise self._error(f"unexpected {self._tokens[0]!r}")
        return predicate

    def _conjunction(self) -> Predicate:
        parts = [self._disjunction()]
        while self._tokens and self._tokens[0] == "AND":
            self._tokens.pop(0)
            parts.append(self._disjunction())
        return lambda item: all(part(item) for part in parts)

    def _disjunction(self) -> Predicate:
        parts = [self._negation()]
        while self._tokens and self._tokens[0] == "OR":
            self._tokens.pop(0)
            parts.append(self._negation())
        return lambda item: any(part(item) for part in parts)

    def _negation(self) -> Predicate:
        if self._tokens and self._tokens[0] == "NOT":
            self._tokens.pop(0)
            inner = self._negation()
            return lambda item: not inner(item)
        if self._tokens and self._tokens[0] == "(":
            self._tokens.pop(0)
            inner = self._conjunction()
            if self._next() != ")":
                raise self._error("a parenthesis is not closed")
            return inner
        key, operator, value = self._next(), self._next(), self._next()
        if operator not in COMPARISONS:
            raise self._error(f"expected a comparison after {key}, such as {key}=value")
        return self._comparison(key, operator, _unquote(value))

    def _next(self) -> str:
        if not self._tokens:
            raise self._error("it is incomplete")
        return self._tokens.pop(0)

    def _comparison(self, key: str, operator: str, value: str) -> Predicate:
        field, _, label = key.partition(".")
        name = _to_snake_case(field)
        if name == "labels":
            return self._label_comparison(_unquote(label), operator, value)
        name = _to_snake_case(key)
        if self._documented and name not in self._documented:
            expected = ", ".join(self._documented)
            raise self._error(f"field {key} is not supported; supported: {expected}")
        if operator not in self._documented.get(name, ("=", "!=", ":")):
            raise self._error(f"field {key} does not support the comparison {operator}")
        if name in ID_FIELDS:
            value = value.rsplit("/", 1)[-1]
        return lambda item: _compare(_get_value(item, name), operator, value, self._error)

    def _label_comparison(self, label: str, operator: str, value: str) -> Predicate:
        if not label and operator == ":":  # labels:key
            label, value = value, "*"
        if not label or operator not in ("=", "!=", ":"):
            raise self._error("expected labels.key=value, labels.key:* or labels:key")
        if operator == ":" and value == "*":
            return lambda item: label in item.labels
        if operator == "!=":
            return lambda item: item.labels.get(label) != value
        return lambda item: item.labels.get(label) == value

    def _error(self, what: str) -> Exception:
        return invalid_argument(f"Invalid filter {self._expression!r}: {what}.")


def _get_value(item: Any, name: str) -> Any:
    """Return the value of a filter's field; "" if the resource has none."""
    if name in ID_FIELDS:
        return item.name.rsplit("/", 1)[-1].partition("@")[0]
    value = item
    for part in name.split("."):
        value = getattr(value, part, "")
    return value


def _compare(actual: Any, operator: str, value: str, error: Callable[[str], Exception]) -> bool:
    if isinstance(actual, datetime.datetime):
        return _compare_times(actual, operator, value, error)
    if isinstance(actual, proto.Enum):
        if value not in type(actual).__members__:
            raise error(f"{value} is not a {type(actual).__name__}")
        actual = actual.name
    text = "" if actual is None else str(actual)
    if operator == ":" or ("*" in value and operator == "="):
        return fnmatch.fnmatchcase(text, value.replace("[", "[[]").replace("?", "[?]"))
    return (text == value) == (operator == "=")


def _compare_times(
    actual: datetime.datetime, operator: str, value: str, error: Callable[[str], Exception]
) -> bool:
    try:
        expected = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise error(f"{value} is not a time in the format of RFC 3339") from None
    if expected.tzinfo is None:
        expected = expected.replace(tzinfo=datetime.UTC)
    return {
        "=": actual == expected,
        "!=": actual != expected,
        "<": actual < expected,
        "<=": actual <= expected,
        ">": actual > expected,
        ">=": actual >= expected,
        ":": True,
    }[operator]


def _sort(items: list[Any], order: str, request_type: Any) -> list[Any]:
    """Return items in an order such as "display_name, create_time desc"; raise ApiError."""
    text = read_texts(request_type).get("order_by", "") if hasattr(request_type, "meta") else ""
    supported = re.findall(r"- ``(\w+)``", text.partition("Supported fields")[2])
    result = list(items)
    for clause in reversed(order.split(",")):
        match = re.fullmatch(r"\s*(\w+)(?:\s+(asc|desc))?\s*", clause)
        name = _to_snake_case(match[1]) if match else ""
        if match is None or (supported and name not in supported):
            expected = f"; supported: {', '.join(supported)}" if supported else ""
            raise invalid_argument(f"Invalid order_by {clause.strip()!r}{expected}.")
        key = _sort_key(name)
        result.sort(key=key, reverse=match[2] == "desc")
    return result


def _sort_key(name: str) -> Callable[[Any], tuple[bool, Any]]:
    def key(item: Any) -> tuple[bool, Any]:
        value = getattr(item, name, None)
        return (value is not None, value if value is not None else "")

    return key


def _select_fields(item: Any, paths: list[str]) -> Any:
    """Return a copy of an item with the fields of a read mask only; raise ApiError."""
    if "*" in paths:
        return item
    message_type = type(item)
    mask = field_mask_pb2.FieldMask(paths=[_to_snake_case(path) for path in paths])
    if not mask.IsValidForDescriptor(message_type.pb().DESCRIPTOR):
        raise invalid_argument(f"Invalid read_mask {', '.join(paths)}.")
    result = message_type()
    mask.MergeMessage(message_type.pb(item), message_type.pb(result))
    return result


def _to_snake_case(name: str) -> str:
    return re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", name)


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] == '"' and text[-1:] == '"' else text
