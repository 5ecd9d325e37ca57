"""Damaged weights are rejected with their file's name."""

from pathlib import Path

import pytest
from network import read_weights

DAMAGED = {
    "empty": b"",
    "a header beyond its end": (1 << 62).to_bytes(8, "little") + b"{}",
    "not JSON": (2).to_bytes(8, "little") + b"[[",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_rejected_in_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^some\.safetensors .*$"):
        read_weights(path)
