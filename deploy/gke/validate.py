"""Render folders of kustomize and hold every object strictly against the published schemas.

It runs in build/kubernetes, which has a kubectl and the schemas: make manifests.
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
"""Of Kubernetes: those that it still mends."""
KUBECTL = Path(sys.executable).with_name("kubectl")
CRDS: dict[str, Any] = json.loads(Path(__file__).with_name("crds.json").read_text())
PREDICTOR = CRDS["InferenceService serving.kserve.io/v1beta1"]["properties"]["predictor"]
"""What KServe knows beside a pod's own fields."""


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that a folder makes; exit with kubectl's own words where it makes none."""
    words = [str(KUBECTL), "kustomize", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        sys.exit(f"{folder}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def faults(thing: dict[str, Any], version: str) -> Iterator[str]:
    """Say what of an object a version of Kubernetes would refuse, and where."""
    named = f"{thing['kind']} {thing['metadata']['name']}"
    schema = CRDS.get(f"{thing['kind']} {thing['apiVersion']}")
    try:
        if schema is None:
            kubernetes_validate.validate(thing, version, strict=True)
            return
        # What every object has is checked by one that has nothing else.
        plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": thing["metadata"]}
        kubernetes_validate.validate(plain, version, strict=True)
        fields: dict[str, Any] = {"apiVersion": {}, "kind": {}, "metadata": {}, "spec": schema}
        jsonschema.validate(thing, {"properties": fields, "additionalProperties": False})
        if thing["kind"] == "InferenceService":
            predictor = thing["spec"]["predictor"]
            pod = {k: v for k, v in predictor.items() if k not in PREDICTOR["properties"]}
            pod["containers"] = predictor["containers"]
            whole = plain | {"kind": "Pod", "spec": pod}
            kubernetes_validate.validate(whole, version, strict=True)
    except jsonschema.ValidationError as error:
        where = ".".join(str(each) for each in error.absolute_path)
        yield f"{named}: {where or 'itself'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{named}: no schema of {thing['apiVersion']} {thing['kind']} in Kubernetes {version}, nor in crds.json"


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 all valid, 1 not, 2 misused."""
    parser = argparse.ArgumentParser(prog="python -m deploy.gke.validate", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    found = False
    for folder in parser.parse_args(words).folders:
        things = rendered(folder)
        wrong = [
            f"{folder}, Kubernetes {version}: {fault}"
            for version in VERSIONS
            for thing in things
            for fault in faults(thing, version)
        ]
        found = found or bool(wrong)
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
        else:
            print(f"{folder}: {len(things)} objects, valid in Kubernetes {', '.join(VERSIONS)}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
