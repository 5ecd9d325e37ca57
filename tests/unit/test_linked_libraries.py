"""The build of the image lists NVIDIA's libraries, and ends if one that another links to is missing."""

import subprocess
import sys
from pathlib import Path

from tests.images import ROOT
from tests.programs import Result, run_program


def build_library(path: Path, *options: str, source: str = "void f(void) {}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler = ["gcc", "-shared", "-Wl,--no-as-needed", "-x", "c", "-", "-x", "none"]
    command = [*compiler, *options, "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)


def list_libraries(environment: Path) -> Result:
    script = ROOT / "docker/scripts/linked_libraries.py"
    return run_program([sys.executable, str(script), str(environment)])


def test_libraries_are_listed_with_their_users_and_a_missing_one_ends_the_build(
    tmp_path: Path,
) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    torch, nvidia = packages / "torch/lib/libtorch_cuda.so", packages / "nvidia/cu13/lib"
    build_library(nvidia / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    loader = 'const char *name = "libcudnn_ops.so.9";'
    build_library(nvidia / "libcudnn.so.9", "-Wl,-soname,libcudnn.so.9", source=loader)
    build_library(nvidia / "libcudnn_ops.so.9")
    build_library(nvidia / "libunused.so.1")
    linked = [str(nvidia / name) for name in ("libcuda.so.1", "libcudnn.so.9")]
    build_library(torch, *linked, "-Wl,-rpath,$ORIGIN/../../nvidia/cu13/lib")
    (nvidia / "libcuda.so.1").unlink()  # the machine with the GPU has it

    done = list_libraries(tmp_path)
    assert done.code == 0, done.err
    users = {line.split()[2]: line.partition("used by ")[2] for line in done.out.splitlines()[:-1]}
    assert users == {
        "libcudnn.so.9": "libtorch_cuda",
        "libcudnn_ops.so.9": "libcudnn",
        "libunused.so.1": "no library",
    }

    (nvidia / "libcudnn.so.9").unlink()
    done = list_libraries(tmp_path)
    assert done.code == 1
    assert done.err == "libraries are missing: libtorch_cuda.so links to libcudnn.so.9\n"
