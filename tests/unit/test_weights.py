"""Damaged weights are refused by name."""

import json
from pathlib import Path

import pytest

from model.task import read_weights


def header(**entry: object) -> bytes:
    text = json.dumps({"x": entry}).encode()
    return len(text).to_bytes(8, "little") + text


BROKEN = {
    "empty": b"",
    "a header beyond its end": (1 << 62).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"[[",
    "numbers beyond its end": header(dtype="F32", shape=[2], data_offsets=[0, 8]) + b"1234",
    "a shape of another size": header(dtype="F32", shape=[3], data_offsets=[0, 4]) + b"1234",
    "before its start": header(dtype="F32", shape=[1], data_offsets=[-4, 0]) + b"1234",
    "an unknown dtype": header(dtype="F8", shape=[1], data_offsets=[0, 1]) + b"1",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_is_refused_in_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^some\.safetensors .*$"):
        read_weights(path)
