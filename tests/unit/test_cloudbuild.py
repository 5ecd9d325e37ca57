"""The Cloud Build configurations load with gcloud's own loader, and use no undefined variables."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format

from deploy.cloud_build import build_substitutions
from deploy.settings import Settings
from emulator.builds import expand_substitutions
from project.model_folder import find_model
from tests.images import ROOT
from tests.programs import require_programs, run_program

LOADER = """
import json, sys
sys.path[:0] = [f"{sys.argv[1]}/lib/third_party", f"{sys.argv[1]}/lib"]
from apitools.base.py import encoding
from googlecloudsdk.api_lib.cloudbuild import cloudbuild_util, config
build = config.LoadCloudbuildConfigFromPath(sys.argv[2], cloudbuild_util.GetMessagesModule(), params={})
print(encoding.MessageToJson(build))
"""


def undefined_variables(content: Any) -> Iterator[str]:
    """Yield the undefined variables of a build's scripts; raise ApiError for undefined substitutions."""
    message = cloudbuild_v1.Build.pb()()
    json_format.ParseDict(content, message)
    build = cloudbuild_v1.Build.wrap(message)
    build.project_id, build.name = "p", "projects/1/locations/us-central1/builds/b"
    expanded = expand_substitutions(build)
    common = {variable.partition("=")[0] for variable in expanded.options.env}
    for step in expanded.steps:
        environment = common | {variable.partition("=")[0] for variable in step.env}
        used = set(re.findall(r"\$\{?([A-Z_][A-Z0-9_]*)", step.script))
        assigned = set(re.findall(r"\b([A-Z_][A-Z0-9_]*)=", step.script))
        undefined = sorted(used - environment - assigned)
        yield from (f"{step.id}: ${name} is undefined" for name in undefined)


@pytest.mark.parametrize(
    ("name", "substitutions"),
    [
        ("cloudbuild.yaml", {}),
        ("pipeline/cloudbuild.yaml", {"_IMAGE": "host/p/r/n", "_TAG": "t"}),
    ],
)
def test_gcloud_loads_the_build_and_its_scripts_use_no_undefined_variables(
    name: str, substitutions: dict[str, str]
) -> None:
    require_programs("gcloud")
    fields = 'value[separator="\\n"](basic.python_location, installation.sdk_root)'
    python, root = run_program(["gcloud", "info", f"--format={fields}"]).out.split()
    result = run_program([python, "-c", LOADER, root, str(ROOT / name)])
    assert result.code == 0, result.err
    build = yaml.safe_load((ROOT / name).read_text())
    # Required with a user-managed service account.
    assert build["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert "duplicate key" not in result.err  # the loader would use the last one
    steps = json.loads(result.out)["steps"]
    assert [step["id"] for step in steps] == [step["id"] for step in build["steps"]]
    build["substitutions"] |= substitutions
    assert list(undefined_variables(build)) == []


def test_default_substitutions_equal_the_defaults_of_deploy() -> None:
    build = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
    settings = Settings(project="my-project")
    assert build["substitutions"]["_MODEL"] == settings.sources.name
    for name in ("region", "repository"):
        assert build["substitutions"][f"_{name.upper()}"] == getattr(settings, name)
    torch = [build["substitutions"][f"_TORCH{name}"] for name in ("_LOCK", "", "_INDEX")]
    assert torch == list(settings.torch_build)


def test_build_for_a_machine_with_a_gpu_gets_torch_for_it() -> None:
    toy = find_model("tests/toy")
    settings = Settings(
        project="my-project", sources=toy, accelerator_type="NVIDIA_L4", torch="torch==2.12.0"
    )
    substitutions = build_substitutions(settings)
    assert substitutions["_TORCH_LOCK"] == "gpu"
    assert substitutions["_TORCH"] == "torch==2.12.0"
    assert substitutions["_TAG"].startswith("gpu-")
    assert "_TORCH_LOCK" not in build_substitutions(Settings(project="my-project", sources=toy))


def test_gcloud_uploads_the_files_that_the_steps_need_without_build_outputs(tmp_path: Any) -> None:
    require_programs("gcloud")
    command = ["gcloud", "meta", "list-files-for-upload", str(ROOT)]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
    uploaded = run_program(command, env).out.split()
    for file in ("Dockerfile", "cloudbuild.yaml", "requirements/serve.lock", "tests/cases.py"):
        assert file in uploaded
    for folder in (".git/", ".venv/", "build/deploy/"):
        assert not [file for file in uploaded if file.startswith(folder)], folder
