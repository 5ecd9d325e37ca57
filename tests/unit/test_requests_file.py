"""requests.json is read as examples; an invalid one is an error that says where, and what was expected."""

import json
from pathlib import Path
from typing import Any

import pytest

from task.requests_file import Example, RequestsFileError, read_examples


def write(folder: Path, text: str) -> Path:
    (folder / "requests.json").write_text(text)
    return folder


def test_examples_have_the_values_of_the_file_and_defaults(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"instance": 1, "parameters": {"k": 2}, "expected": [1.0], "tolerance": 0.1},
        {"instance": {"text": "a"}},
    ]
    first, second = read_examples(write(tmp_path, json.dumps(items)))
    assert first == Example(1, {"k": 2}, [1.0], 0.1, "requests.json[0]")
    assert second == Example({"text": "a"}, {}, None, 1e-3, "requests.json[1]")
    assert first.body == {"instances": [1], "parameters": {"k": 2}}
    assert second.body == {"instances": [{"text": "a"}]}


@pytest.mark.parametrize("expected", [None, {}])
def test_expected_without_a_value_is_no_check(expected: object) -> None:
    assert not Example(1, {}, expected).has_check


@pytest.mark.parametrize("expected", [[], "", 0, False])
def test_empty_array_or_text_is_an_expected_value(expected: object) -> None:
    assert Example(1, {}, expected).has_check


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_file_written_on_windows_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "requests.json").write_text('[{"instance": "ä"},\r\n{"instance": 1}]', encoding)
    assert [example.instance for example in read_examples(tmp_path)] == ["ä", 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "Expecting value: line 1 column 2"),
        ('[{"instance": NaN}, {"instance": 1}]', "NaN is not a JSON number"),
        ('{"instances": [1]}', r'expected an array, \[\{"instance"'),
        ('[{"instance": 1}]', r"expected 2 requests or more.*; got 1"),
        ('[{"instance": 1}, {"expected": 2}]', r'\[1\]: expected an object \{"instance": ...\}'),
        ('[{"instance": 1, "expcted": 2}, 3]', r"\[0\]: unknown key 'expcted'; expected instance,"),
        ('[{"instance": 1, "parameters": 2}, 3]', r"\[0\]: parameters: expected an object"),
        ('[{"instance": 1, "tolerance": "x"}, 3]', r"\[0\]: tolerance: expected a number"),
        ('[{"instance": 1, "tolerance": true}, 3]', r"\[0\]: tolerance: expected a number"),
    ],
)
def test_invalid_file_is_an_error_that_names_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(RequestsFileError, match=f"requests.json: {message}") as raised:
        read_examples(write(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_missing_file_is_an_error_with_an_example_of_its_contents(tmp_path: Path) -> None:
    with pytest.raises(RequestsFileError, match=r"does not exist; expected \[\{"):
        read_examples(tmp_path)
