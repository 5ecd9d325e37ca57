"""What is served: chosen among the files that were found."""

from pathlib import Path

import pytest

import storage
from serving import artifact
from serving.artifact import Chosen
from storage import files

NEEDED = ["golden.json", "model.json", "weights.safetensors"]


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (["x.mar"], Chosen("x.mar", [])),
        (["model.mar", "older.mar", "notes.txt"], Chosen("model.mar", [])),
        (
            ["golden-request.json", "model.mar", *NEEDED],
            Chosen("model.mar", ["golden-request.json"]),
        ),
        ([*NEEDED, "held-out/3.png", ".hidden", "golden-request.json"], Chosen(None, NEEDED)),
        ([*NEEDED, "../up.txt", "a/../../up.txt", "/root.txt", "code.py"], Chosen(None, NEEDED)),
        (
            [*NEEDED, "vocabulary/words.txt"],
            Chosen(None, [*NEEDED[:2], "vocabulary/words.txt", NEEDED[2]]),
        ),
    ],
)
def test_an_archive_comes_before_weights(found: list[str], chosen: Chosen) -> None:
    assert artifact.choose(found, NEEDED) == chosen


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (["a.mar", "b.mar"], "more than one archive, and none is model.mar: a.mar, b.mar"),
        (["folder/a.mar"], "neither a .mar nor this model's weights"),
        (["weights.safetensors"], "golden.json, model.json missing among weights.safetensors"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(found: list[str], reason: str) -> None:
    with pytest.raises(artifact.NotServable, match=reason):
        artifact.choose(found, NEEDED)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x",
        "gs://",
        "gs:///x",
        "gs://b",
        "gs://Upper/x",
        "gs://[x/y",
        "models",
        "",
        "http://host/x",
        "file://host/x",
    ],
)
def test_an_address_that_is_none_of_a_bucket_or_a_folder_is_refused(uri: str) -> None:
    with pytest.raises(files.NotFetched, match="expected gs://BUCKET/FOLDER, or the path"):
        storage.at(uri, print)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(files.NotFetched, match="missing: no such folder; is it mounted"):
        storage.at(f"{tmp_path}/missing", print).files()


def test_one_archive_of_several_may_be_named(tmp_path: Path) -> None:
    for name in ("a.mar", "b.mar"):
        (tmp_path / name).touch()
    assert list(storage.at(f"{tmp_path}/b.mar", print).files()) == ["b.mar"]
    with pytest.raises(files.NotFetched, match=r"c\.mar is not among a\.mar, b\.mar"):
        storage.at(f"{tmp_path}/c.mar", print).files()


@pytest.mark.parametrize("count", [0, 2])
def test_an_image_has_one_archive(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"m{number}.mar").touch()
    with pytest.raises(artifact.NotServable, match=rf"expected one \.mar, found {count}"):
        artifact.baked_in(tmp_path)


def test_what_is_no_archive_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "x.mar").write_bytes(b"not a zip")
    with pytest.raises(artifact.NotServable, match=r"x\.mar is no archive"):
        artifact.golden_request(tmp_path / "x.mar")


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("gs://bucket", ("bucket", "")),
        ("gs://bucket/", ("bucket", "")),
        ("gs://my_bucket.example-1/a/b/", ("my_bucket.example-1", "a/b")),
        ("gs://bucket/a folder?#", ("bucket", "a folder?#")),
    ],
)
def test_a_bucket_s_uri_is_split(uri: str, where: tuple[str, str]) -> None:
    assert storage.split(uri) == where
