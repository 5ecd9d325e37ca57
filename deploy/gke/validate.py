"""Render kustomize folders and validate every object strictly against the published schemas.

It runs in the environment build/kubernetes, which has kubectl and the schemas: make manifests.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ("1.35", "1.36", "1.37")
"""The versions of Kubernetes that still get fixes."""
KUBECTL = Path(sys.executable).with_name("kubectl")
CRDS: dict[str, Any] = json.loads(Path(__file__).with_name("crds.json").read_text())
PREDICTOR = CRDS["InferenceService serving.kserve.io/v1beta1"]["properties"]["predictor"]
"""KServe's fields of a predictor, beside those of a pod."""


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that a folder renders to; exit with kubectl's error if it is invalid."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        sys.exit(f"{folder}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def find_errors(manifest: dict[str, Any], version: str) -> Iterator[str]:
    """Yield the reasons why a version of Kubernetes would reject an object, with the field."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    schema = CRDS.get(f"{manifest['kind']} {manifest['apiVersion']}")
    try:
        if schema is None:
            kubernetes_validate.validate(manifest, version, strict=True)
            return
        # The fields that every object has are validated in an object without others.
        plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
        kubernetes_validate.validate(plain, version, strict=True)
        fields: dict[str, Any] = {"apiVersion": {}, "kind": {}, "metadata": {}, "spec": schema}
        jsonschema.validate(manifest, {"properties": fields, "additionalProperties": False})
        if manifest["kind"] == "InferenceService":
            predictor = manifest["spec"]["predictor"]
            pod = {k: v for k, v in predictor.items() if k not in PREDICTOR["properties"]}
            pod["containers"] = predictor["containers"]
            whole = plain | {"kind": "Pod", "spec": pod}
            kubernetes_validate.validate(whole, version, strict=True)
    except jsonschema.ValidationError as error:
        path = ".".join(str(each) for each in error.absolute_path)
        yield f"{name}: {path or 'top level'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name}: no schema of {manifest['apiVersion']} {manifest['kind']} for Kubernetes {version}"


def main(arguments: list[str] | None = None) -> None:
    """Validate folders; exit codes: 0 all valid, 1 invalid, 2 invalid arguments."""
    parser = argparse.ArgumentParser(prog="python -m deploy.gke.validate", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="folder of an overlay"
    )
    failed = False
    for folder in parser.parse_args(arguments).folders:
        manifests = render(folder)
        errors = [
            f"{folder}, Kubernetes {version}: {error}"
            for version in VERSIONS
            for manifest in manifests
            for error in find_errors(manifest, version)
        ]
        failed = failed or bool(errors)
        if errors:
            print("\n".join(errors), file=sys.stderr)
        else:
            print(f"{folder}: {len(manifests)} objects, valid in Kubernetes {', '.join(VERSIONS)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
