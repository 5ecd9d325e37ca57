"""The packages of a model's requirements.txt are imported at the end of the image's build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images import ROOT


def import_packages(folder: Path, lines: str) -> subprocess.CompletedProcess[str]:
    file = folder / "requirements.txt"
    file.write_text(lines)
    return subprocess.run(
        [sys.executable, str(ROOT / "docker/scripts/import_packages.py"), str(file)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_package_is_imported_by_the_name_of_its_module(tmp_path: Path) -> None:
    lines = "pillow>=1  # pictures\n--no-binary :all:\nPyYAML\nabsent; python_version < '3'\n"
    done = import_packages(tmp_path, lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["import PIL: works", "import yaml: works"]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("operator torchvision::nms does not exist", "TORCH_INDEX has the build for this one"),
        ("libGL.so.1: cannot open shared object file", "write opencv-python-headless in its place"),
        ("numpy.dtype size changed, may indicate", "add the line numpy<2"),
    ],
)
def test_package_that_does_not_fit_the_image_ends_the_build(
    tmp_path: Path, error: str, advice: str
) -> None:
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "RECORD").write_text("my_package.py,,\n")
    (tmp_path / "my_package.py").write_text(f"raise RuntimeError({error!r})\n")
    done = import_packages(tmp_path, "my-package==1.0\n")
    assert done.returncode == 1
    assert f"my-package==1.0: RuntimeError: {error}" in done.stderr
    assert advice in done.stderr
