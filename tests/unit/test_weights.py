"""The small safetensors reader gives what the package gives, and trusts nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import weights


def test_it_reads_what_the_package_wrote(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    wrote = {
        "floats": torch.randn(3, 4, 5),
        "halves": torch.randn(7).half(),
        "brains": torch.randn(2, 2).bfloat16(),
        "count": torch.tensor(17),
        "empty": torch.zeros(0, 3),
    }
    save_file(wrote, path, metadata={"format": "pt"})
    read = weights.read(path)
    assert read.keys() == load_file(path).keys()
    for name, tensor in load_file(path).items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def header(**entry: object) -> bytes:
    text = json.dumps({"x": entry}).encode()
    return len(text).to_bytes(8, "little") + text


BROKEN = {
    "empty": b"",
    "a header beyond its end": (1 << 62).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"[[",
    "no object": (2).to_bytes(8, "little") + b"[]",
    "numbers beyond its end": header(dtype="F32", shape=[2], data_offsets=[0, 8]) + b"1234",
    "a shape of another size": header(dtype="F32", shape=[3], data_offsets=[0, 4]) + b"1234",
    "before its start": header(dtype="F32", shape=[1], data_offsets=[-4, 0]) + b"1234",
    "an unknown dtype": header(dtype="F8", shape=[1], data_offsets=[0, 1]) + b"1",
    "an entry cut short": header(dtype="F32") + b"1234",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_broken_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    with pytest.raises(weights.BadWeights, match=r"some\.safetensors"):
        weights.read(path)
