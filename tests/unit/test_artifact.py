"""Selecting, checking and unpacking what is served."""

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import storage
from project.model_folder import Model, find_model
from serving import archive as packing
from serving import artifact, unpacking
from serving.errors import ArchiveError
from serving.layout import choose_cpu_layout
from serving.selection import BACKEND_FILES, Selection, select_files
from serving.stock import manifest
from serving.torchserve_config import TorchServeConfig
from serving.verification import GOLDEN_REQUEST
from storage import files
from tests.images import ARCHIVE
from tests.stock import archive as stock

REQUIRED = ["golden.json", "model.json", "weights.safetensors"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["x.mar"], Selection(("x.mar",), [])),
        (["Model.MAR", "._Model.MAR", "notes.txt"], Selection(("Model.MAR",), [])),
        (["b.mar", "a.mar", "c.tgz"], Selection(("a.mar", "b.mar"), [])),
        (
            ["a.mar", "b.mar", GOLDEN_REQUEST, f"b.{GOLDEN_REQUEST}"],
            Selection(("a.mar", "b.mar"), [f"b.{GOLDEN_REQUEST}"]),
        ),
        (["a.tgz", "b.tar.gz"], Selection(("a.tgz", "b.tar.gz"), [])),
        (["model.tar.gz", "notes.txt", "flow.war"], Selection(("model.tar.gz",), [])),
        (["x.tgz", "x.mar"], Selection(("x.mar",), [])),
        (["backup.tgz", *REQUIRED], Selection((), ["backup.tgz", *REQUIRED])),
        (
            ["MAR-INF/MANIFEST.json", "handler.py", "../up.py"],
            Selection((), ["MAR-INF/MANIFEST.json", "handler.py"]),
        ),
        ([GOLDEN_REQUEST, "model.mar", *REQUIRED], Selection(("model.mar",), [GOLDEN_REQUEST])),
        ([*REQUIRED, "held-out/3.png", ".hidden", GOLDEN_REQUEST], Selection((), REQUIRED)),
        (
            [*REQUIRED, "../up.txt", "a/../../up.txt", "/root.txt", "code.py"],
            Selection((), REQUIRED),
        ),
        ([*REQUIRED, "t/words.txt"], Selection((), [*REQUIRED[:2], "t/words.txt", REQUIRED[2]])),
    ],
)
def test_archive_is_preferred_to_weights(found: list[str], expected: Selection) -> None:
    assert select_files(found, REQUIRED) == expected


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (["a.mar", "b c.mar"], "b c.mar: the name may contain only letters, digits, - and _, at"),
        (["a.mar", f"{'b' * 49}.mar"], "at most 48: rename it"),
        (["a.tar.gz", "a.tgz"], "a.tar.gz and a.tgz are both the model a: rename one"),
        (["a.txt"], "neither a .mar nor this model's weights"),
        (["model/model.mar"], "model/model.mar is in a subfolder: let the URI end in /model$"),
        (["a/b/x.tgz"], "a/b/x.tgz is in a subfolder: let the URI end in /a/b$"),
        (
            ["x/MAR-INF/MANIFEST.json", "x/handler.py"],
            "x is an unpacked archive in a subfolder: let the URI end in /x$",
        ),
        (["flow.war"], "flow.war: a workflow archive of TorchServe; workflows are not served"),
        (["model.mar.zip"], "model.mar.zip: expected a .mar; if it is one, rename it to model.mar"),
        (
            ["config.json", "pytorch_model.bin", "vocab.txt"],
            r"a Hugging Face folder \(config.json, pytorch_model.bin\), not an archive: make new",
        ),
        (["net.pt"], "net.pt: a model without an archive; pack it with torch-model-archiver"),
        (["weights.safetensors"], "golden.json, model.json missing in weights.safetensors"),
    ],
)
def test_unsuitable_files_are_refused_with_the_reason(found: list[str], reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        select_files(found, REQUIRED)


URIS = (
    "s3://bucket/x gs:// gs:///x gs://b gs://Upper/x gs://[x/y models http://host/x file://host/x"
)


@pytest.mark.parametrize("uri", ["", *URIS.split()])
def test_invalid_uri_is_refused(uri: str) -> None:
    with pytest.raises(files.StorageError, match="expected gs://BUCKET/FOLDER, or the path"):
        storage.open_storage(uri, print)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(files.StorageError, match="missing: folder not found; is it mounted"):
        storage.open_storage(f"{tmp_path}/missing", print).list_files()


def test_one_archive_of_several_can_be_selected(tmp_path: Path) -> None:
    for name in ("a.mar", "b.mar"):
        (tmp_path / name).touch()
    assert list(storage.open_storage(f"{tmp_path}/b.mar", print).list_files()) == ["b.mar"]
    with pytest.raises(files.StorageError, match=r"c\.mar not found among a\.mar, b\.mar"):
        storage.open_storage(f"{tmp_path}/c.mar", print).list_files()


def test_image_without_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"expected a \.mar, found none"):
        artifact.find_baked_in(tmp_path)


def test_file_that_is_not_an_archive_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "x.mar").write_bytes(b"not a zip")
    with pytest.raises(ArchiveError, match=r"x\.mar is not a \.mar archive"):
        artifact.read_golden_request(tmp_path / "x.mar")


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("gs://bucket", ("bucket", "")),
        ("gs://bucket/", ("bucket", "")),
        ("gs://my_bucket.example-1/a/b/", ("my_bucket.example-1", "a/b")),
        ("gs://bucket/a folder?#", ("bucket", "a folder?#")),
    ],
)
def test_bucket_uri_is_split(uri: str, location: tuple[str, str]) -> None:
    assert storage.split_uri(uri) == location


def write_zip(folder: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    """Write an archive with any entry names."""
    archive = folder / "evil.mar"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as contents:
        for name, data in entries:
            contents.writestr(name, data)
    return archive


def make_link(name: str) -> zipfile.ZipInfo:
    """Return an entry that is a symbolic link."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


OUTSIDE = ("../up.py", "a/../../up.py", "/etc/up.py", "..", "a\\..\\up.py", "..\\up.py")
MALICIOUS = {
    **{
        name: ([("handler.py", b""), (name, b"")], r"'.+' points outside the archive")
        for name in OUTSIDE
    },
    "a link": (
        [(make_link("weights"), b"/etc/passwd")],
        "'weights' is not a regular file; links and devices are",
    ),
    "200 MiB of zeros": (
        [("zeros", bytes(200 << 20))],
        " would unpack to 200 MiB; the limit is 100 times its size",
    ),
    "too many files": (
        [(f"{n}", b"") for n in range(unpacking.MAX_FILES + 1)],
        " has 20001 files; the limit is 20000",
    ),
}


@pytest.mark.parametrize(("entries", "reason"), MALICIOUS.values(), ids=MALICIOUS.keys())
def test_malicious_archive_is_refused_before_it_is_unpacked(
    tmp_path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], reason: str
) -> None:
    archive = write_zip(tmp_path, *entries)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=rf"evil\.mar:? ?{reason}"):
        unpacking.unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_archive_with_a_false_size_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, ("zeros", bytes(1000)))
    content = archive.read_bytes()
    size = (1000).to_bytes(4, "little")
    assert content.count(size) == 2  # the entry's own, and the directory's
    archive.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match=r"evil\.mar is damaged"):
        unpacking.unpack(archive, tmp_path)


@pytest.mark.parametrize(
    ("offset", "byte", "reason"),
    [
        (8, 99, "cannot be unpacked: That compression method"),
        (4, 99, "is damaged|cannot be unpacked"),
    ],
    ids=["another compression", "a later version"],
)
def test_archive_with_unsupported_features_is_refused(
    tmp_path: Path, offset: int, byte: int, reason: str
) -> None:
    archive = write_zip(tmp_path, ("handler.py", b"x" * 100))
    content = bytearray(archive.read_bytes())
    content[offset] = byte  # the entry's own header, and the directory's
    content[content.index(b"PK\x01\x02") + offset + 2] = byte
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=rf"evil\.mar.* {reason}|is not a \.mar archive"):
        unpacking.unpack(archive, tmp_path)


@pytest.mark.parametrize("text", [b"\xff", b'{"model":' * 3000], ids=["no UTF-8", "nested"])
def test_unreadable_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_bytes(text)
    with pytest.raises(
        ArchiveError, match=r"is invalid: .*; build the archive with torch-model-archiver"
    ):
        manifest.adapt(tmp_path, "model")


@pytest.mark.parametrize("name", BACKEND_FILES)
def test_unreadable_choice_of_a_backend_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(ArchiveError, match=f"{name} is invalid: "):
        artifact.read_inference_ms(tmp_path)


def test_archive_with_another_sha256_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    archive = write_zip(tmp_path / "bucket", ("handler.py", b""))
    expected = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(
        ArchiveError, match=f"its SHA-256 is [0-9a-f]+, but ARCHIVE_SHA256 has {expected}"
    ):
        artifact.fetch(files.Folder(tmp_path / "bucket"), archive, tmp_path / "store", expected)
    assert not list((tmp_path / "store" / "model").iterdir())


def test_expected_sha256_without_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "weights.safetensors").touch()
    baked = write_zip(tmp_path, ("weights.safetensors", b""), ("handler.py", b""))
    with pytest.raises(ArchiveError, match="ARCHIVE_SHA256 is set, but there is no archive"):
        artifact.fetch(files.Folder(tmp_path / "bucket"), baked, tmp_path / "store", "0" * 64)


def test_fetched_weights_bring_their_backend_and_other_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    for name in ("weights.safetensors", "engine.json", "train.py", ".hidden"):
        (tmp_path / "bucket" / name).touch()
    logged: list[str] = []
    baked = write_zip(tmp_path, *((name, b"") for name in ("weights.safetensors", "backend.json")))
    monkeypatch.setattr(artifact, "verify", lambda _: None)
    source = files.Folder(tmp_path / "bucket")
    with pytest.raises(ArchiveError, match="MANIFEST"):  # the archive of this test has none
        artifact.fetch(source, baked, tmp_path / "store", log=logged.append)
    names = {path.name for path in (tmp_path / "store" / "model").iterdir()}
    assert names == {"weights.safetensors", "engine.json"}
    assert logged == ["not fetched: .hidden, train.py"]


FOREIGN = {
    "requests.json": "no JSON",
    "golden-request.json": "no request",
    "engine.json": "{}",
    "backend.json": "{}",
    "model-config.yaml": "minWorkers: many",
    "model/model-config.yaml": "minWorkers: many",
    "task/__init__.py": "",
}
"""Files of a stock archive that have a meaning only in archives of this project."""


STOCK = pytest.mark.xdist_group("foreign")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a stock model.mar, model.tar.gz and model/ whose names are those of this project."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, text in FOREIGN.items():
        (folder / "extra" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "extra" / name).write_text(text)
    handler = folder / manifest.UNMARKED_HANDLER
    handler.write_text("def handle(data, context):\n    return data\n")
    stock.pack(folder, handler, f"--extra-files={folder / 'extra'}", "--archive-format=tgz")
    with tarfile.open(folder / "model.tar.gz") as contents:
        contents.extractall(folder, filter="data")
    with zipfile.ZipFile(folder / "model.mar", "w", strict_timestamps=False) as archive:
        for file in filter(Path.is_file, (folder / "model").rglob("*")):
            archive.write(file, file.relative_to(folder / "model"))
    return folder


def zip_with_its_folder(foreign: Path, target: Path) -> None:
    with zipfile.ZipFile(target / "model.mar", "w", strict_timestamps=False) as archive:
        for file in filter(Path.is_file, (foreign / "model").rglob("*")):
            archive.write(file, file.relative_to(foreign))
        archive.writestr("__MACOSX/model/._handler.py", b"")


FORMATS = {
    "a .mar": lambda foreign, target: shutil.copy(foreign / "model.mar", target / "Model.MAR"),
    "a .tar.gz": lambda foreign, target: shutil.copy(foreign / "model.tar.gz", target),
    "a folder": lambda foreign, target: shutil.copytree(
        foreign / "model", target, dirs_exist_ok=True
    ),
    "a .mar of a folder": zip_with_its_folder,
}


@STOCK
@pytest.mark.parametrize("store", FORMATS.values(), ids=FORMATS.keys())
def test_stock_archive_of_any_format_is_served_and_its_files_are_not_read_as_this_projects(
    foreign: Path, tmp_path: Path, store: Callable[[Path, Path], object]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    store(foreign, source)
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    served = artifact.fetch(files.Folder(source), tmp_path / "none.mar", tmp_path / "store")
    assert served.stock
    assert served.golden_request is None
    found = manifest.read_manifest(served.path)
    assert (found.handler, found.is_adapted, found.is_project) == (
        manifest.ADAPTED_HANDLER,
        True,
        False,
    )
    layout = artifact.apply_model_config(config_for(served.path), served).layout
    assert layout.batch_size == 1
    for name, text in FOREIGN.items():
        assert (served.path / name).read_text() == text
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before


@STOCK
def test_each_of_several_archives_is_served_under_its_files_name(
    foreign: Path, tmp_path: Path
) -> None:
    source, logged = tmp_path / "source", list[str]()
    source.mkdir()
    for name in ("a.mar", "B_2.mar"):
        shutil.copy(foreign / "model.mar", source / name)
    (source / f"a.{GOLDEN_REQUEST}").write_text('{"instances": [1]}')
    (source / GOLDEN_REQUEST).touch()
    served = artifact.fetch_models(
        files.Folder(source), [tmp_path / "none.mar"], tmp_path / "store", None, logged.append
    )
    assert [(each.path.name, each.golden_request) for each in served] == [
        ("B_2", None),
        ("a", b'{"instances": [1]}'),
    ]
    assert [manifest.read_manifest(each.path).name for each in served] == ["B_2", "a"]
    assert logged == ["not fetched: golden-request.json"]
    for number, (sha256, reason) in enumerate(
        (
            ("0" * 64, "ARCHIVE_SHA256 is set, but there are 2 archives: B_2.mar, a.mar"),
            (None, "several archives: B_2, a; only the image serves them together"),
        )
    ):
        with pytest.raises(ArchiveError, match=reason):
            artifact.fetch(files.Folder(source), ARCHIVE, tmp_path / str(number), sha256)
    (source / "a.mar").write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"model a: .*a\.mar is empty"):
        artifact.fetch_models(
            files.Folder(source), [ARCHIVE], tmp_path / "again", None, logged.append
        )


@STOCK
def test_folder_of_archives_is_packed_for_one_image(foreign: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.mar", "c.mar"):
        shutil.copy(foreign / "model.mar", source / name)
    stock.changed(foreign / "model.mar", source / "b_2.mar", "requirements.txt", b"captum\n")
    (source / f"a.{GOLDEN_REQUEST}").write_text('{"instances": [1]}')
    model = Model(path=source, name="source", output=tmp_path / "build")
    assert packing.build(model)
    assert not packing.build(model)
    served = {path.name: artifact.find_baked_in(path.parent) for path in model.archives}["a.mar"]
    assert [each.path.name for each in served] == ["a.mar", "b_2.mar", "c.mar"]
    assert [each.golden_request for each in served] == [b'{"instances": [1]}', None, None]
    assert (model.packages / "requirements.txt").read_text() == "captum\n"
    (source / "a.mar").unlink()
    assert packing.build(model)
    assert sorted(path.name for path in model.build.glob("*.mar")) == ["b_2.mar", "c.mar"]


def config_for(archive: Path) -> TorchServeConfig:
    return TorchServeConfig(
        archive=archive,
        run_dir=archive.parent,
        layout=choose_cpu_layout(2, None),
        address="unix:/s",
    )


@STOCK
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_golden_request_beside_a_stock_archive_is_its_probe_in_any_encoding(
    foreign: Path, tmp_path: Path, encoding: str
) -> None:
    source, text = tmp_path / "source", '{"instances": ["ä"]}'
    source.mkdir()
    shutil.copy(foreign / "model.mar", source)
    (source / GOLDEN_REQUEST).write_text(text, encoding)
    served = artifact.fetch(files.Folder(source), tmp_path / "none.mar", tmp_path / "store")
    assert served.stock
    assert served.golden_request == text.encode()
    assert (served.path / GOLDEN_REQUEST).read_text() == "no request"


@STOCK
def test_stock_archive_that_is_not_adapted_is_refused_with_the_way_to_serve_it(
    foreign: Path,
) -> None:
    with pytest.raises(ArchiveError, match=r"is a stock archive: serve it with MODEL=model\.mar"):
        artifact.open_archive(foreign / "model.mar")


@pytest.mark.parametrize("name", [manifest.ADAPTED_HANDLER, manifest.ENVELOPE_PACKAGE])
def test_stock_archive_with_a_name_of_the_adapter_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "MAR-INF").mkdir()
    model = {"modelName": "m", "handler": name}
    (tmp_path / manifest.MANIFEST).write_text(json.dumps({"model": model}))
    (tmp_path / name).touch()
    with pytest.raises(ArchiveError, match=f"{name}: the name is used by this project; rename it"):
        manifest.adapt(tmp_path, "model")


def test_archive_is_of_this_project_by_its_mark_or_if_older_by_its_files(tmp_path: Path) -> None:
    archive = tmp_path / "x.mar"

    def is_project(document: dict[str, object], *names: str) -> bool:
        with zipfile.ZipFile(archive, "w") as contents:
            contents.writestr(manifest.MANIFEST, json.dumps(document))
            for name in names:
                contents.writestr(name, b"")
        return manifest.read_manifest(archive).is_project

    model = {"modelName": "x", "handler": manifest.UNMARKED_HANDLER}
    assert is_project({"model": model, manifest.MARK: manifest.VALUE})
    assert is_project({"model": model}, *manifest.UNMARKED_FILES)
    assert not is_project({"model": model}, *manifest.UNMARKED_FILES[1:])
    assert not is_project({"model": model | {"handler": "own.py"}}, *manifest.UNMARKED_FILES)


def write_tar(folder: Path, *entries: tuple[str, bytes, bytes]) -> Path:
    """Write a .tar.gz with any names, types and contents; a link points to /etc/passwd."""
    archive = folder / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as contents:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), "/etc/passwd"
            contents.addfile(entry, io.BytesIO(data))
    return archive


@pytest.mark.parametrize(
    ("name", "kind", "data", "reason"),
    [
        ("../up.py", tarfile.REGTYPE, b"", r": '\.\./up\.py' points outside the archive"),
        ("/etc/up.py", tarfile.REGTYPE, b"", ": '/etc/up.py' points outside the archive"),
        ("weights", tarfile.SYMTYPE, b"", ": 'weights' is not a regular file; links and devices"),
        ("weights", tarfile.LNKTYPE, b"", ": 'weights' is not a regular file; links and devices"),
        ("device", tarfile.CHRTYPE, b"", ": 'device' is not a regular file; links and devices"),
        ("zeros", tarfile.REGTYPE, bytes(200 << 20), " would unpack to 200 MiB; the limit is 100"),
    ],
    ids=["above", "absolute", "symbolic link", "hard link", "device", "200 MiB of zeros"],
)
def test_malicious_tar_archive_is_refused(
    tmp_path: Path, name: str, kind: bytes, data: bytes, reason: str
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=rf"evil\.tar\.gz{reason}"):
        unpacking.unpack(write_tar(tmp_path, (name, kind, data)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_cut_tar_archive_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path, ("noise", tarfile.REGTYPE, os.urandom(100_000)))
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(ArchiveError, match=r"evil\.tar\.gz is damaged: "):
        unpacking.unpack(archive, tmp_path)


@pytest.mark.parametrize("suffix", ["", ".tar.gz", ".zip", ".mar"])
def test_archive_of_every_format_is_packed_as_a_model(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "source" / "old"
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"model": {"modelName": "m", "handler": "model.py"}}
    (folder / manifest.MANIFEST).write_text(json.dumps(model))
    (folder / "model.py").write_text("def handle(data, context): ...")
    path = folder
    if suffix == ".tar.gz":
        path = tmp_path / "old.tar.gz"
        with tarfile.open(path, "w:gz") as packed:
            packed.add(folder, "a-folder")
    elif suffix:
        shutil.make_archive(str(tmp_path / "old"), "zip", tmp_path / "source", "old")
        path = (tmp_path / "old.zip").rename(tmp_path / f"old{suffix}")
    found = replace(find_model(str(path)), output=tmp_path / "build")
    assert packing.build(found)
    served = artifact.open_archive(tmp_path / "build" / "old" / "old.mar")
    assert served.stock
    assert manifest.read_manifest(served.path).name == "old"
    assert (folder / manifest.MANIFEST).read_text() == json.dumps(model)
    assert not packing.build(found)


def test_zip_around_an_archive_names_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as outer:
        outer.writestr("inner/old.mar", "")
    found = replace(find_model(str(tmp_path / "old.zip")), output=tmp_path / "build")
    with pytest.raises(ArchiveError, match=r"old\.zip contains old\.mar: unpack it, and use old"):
        packing.build(found)
