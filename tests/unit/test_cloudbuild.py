"""The builds, as Cloud Build itself loads them; and what its loader does not look for."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format

from deploy.settings import Settings
from emulator.builds import expand_substitutions
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


def problems(content: Any) -> Iterator[str]:
    """Give what is undefined in a build's scripts; raise Refused for a substitution that is."""
    parsed = cloudbuild_v1.Build.pb()()
    json_format.ParseDict(content, parsed)
    whole = cloudbuild_v1.Build.wrap(parsed)
    whole.project_id, whole.name = "p", "projects/1/locations/us-central1/builds/b"
    expanded = expand_substitutions(whole)
    common = {each.partition("=")[0] for each in expanded.options.env}
    for step in expanded.steps:
        known = common | {each.partition("=")[0] for each in step.env}
        named = set(re.findall(r"\$\{?([A-Z_][A-Z0-9_]*)", step.script))
        own = set(re.findall(r"\b([A-Z_][A-Z0-9_]*)=", step.script))
        yield from (f"{step.id}: ${name} is undefined" for name in sorted(named - known - own))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cloudbuild.yaml", {}),
        ("pipeline/cloudbuild.yaml", {"_IMAGE": "host/p/r/n", "_TAG": "t"}),
    ],
)
def test_cloud_builds_own_loader_takes_it_and_nothing_is_undefined(
    name: str, given: dict[str, str]
) -> None:
    require_programs("gcloud")
    # The Python that gcloud runs with, and where gcloud is.
    fields = 'value[separator="\\n"](basic.python_location, installation.sdk_root)'
    python, root = run_program(["gcloud", "info", f"--format={fields}"]).out.split()
    done = run_program([python, "-c", LOADER, root, str(ROOT / name)])
    assert done.code == 0, done.err
    build = yaml.safe_load((ROOT / name).read_text())
    # Needed by a service account of one's own.
    assert build["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert "duplicate key" not in done.err  # of which the last would count
    steps = json.loads(done.out)["steps"]
    assert [step["id"] for step in steps] == [step["id"] for step in build["steps"]]
    build["substitutions"] |= given
    assert list(problems(build)) == []


def test_the_defaults_are_those_of_deploy_toml() -> None:
    build = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
    settings = Settings(project="my-project")
    for name in ("name", "region", "repository"):
        assert build["substitutions"][f"_{name.upper()}"] == getattr(settings, name)


def test_what_is_sent_to_cloud_build_is_what_the_steps_need_and_no_more(tmp_path: Any) -> None:
    require_programs("gcloud")
    command = ["gcloud", "meta", "list-files-for-upload", str(ROOT)]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
    listed = run_program(command, env).out.split()
    for file in ("Dockerfile", "cloudbuild.yaml", "requirements/serve.lock", "tests/cases.py"):
        assert file in listed
    for folder in (".git/", ".venv/", "build/deploy/"):
        assert not [file for file in listed if file.startswith(folder)], folder
