"""Queries of Google Cloud by the pipeline's steps; each prints its result.

image        the URI of the image in the registry that was built from these sources
contract     the Cloud Build that tested this image against the container contract
has-traffic  yes or no: whether a model of the endpoint receives traffic
"""

import argparse
import json

from deploy import cli, settings
from deploy.errors import UserError
from deploy.gcp import Google
from deploy.image import find, fingerprint, run
from pipeline.predictors import has_traffic


def find_image(google: Google) -> str:
    """Return the URI of the image in the registry that was built from these sources."""
    image = find(google)
    if image is None:
        raise UserError("the image is not in the registry", "python -m deploy build")
    return image.uri


def find_contract_build(google: Google) -> str:
    """Return a sentence with the build whose step `tests`, which runs the contract suite, succeeded for this image."""
    s, tag = google.settings, fingerprint()
    target = [f"--project={s.project}", f"--region={s.region}"]
    builds = run(google, ["gcloud", "builds", "list", "--format=json", "--limit=200", *target])
    for build in json.loads(builds):
        succeeded = {
            step.get("id") for step in build.get("steps", []) if step.get("status") == "SUCCESS"
        }
        if "tests" in succeeded and build.get("substitutions", {}).get("_TAG") == tag:
            return f"PASS: Cloud Build tested {tag} in step tests of build {build['id']}"
    raise UserError(
        f"no build in {s.region} tested {tag} against the container contract",
        "delete that tag from the registry; then Cloud Build builds and tests the image again",
    )


def check_traffic(google: Google) -> str:
    """Return yes or no: whether a model of the endpoint receives traffic."""
    return "yes" if has_traffic(google) else "no"


QUERIES = {"image": find_image, "contract": find_contract_build, "has-traffic": check_traffic}


def main(arguments: list[str] | None = None) -> None:
    """Run a query and print its result; exit with 1 and the reason if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.checks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("query", choices=QUERIES)
    for name in ("project", "region", "builder"):
        parser.add_argument(f"--{name}", help="as in deploy.toml")
    args = parser.parse_args(arguments)
    cli.run(
        "pipeline.checks", lambda: print(QUERIES[args.query](Google(settings.read(vars(args)))))
    )


if __name__ == "__main__":
    cli.handle_signals()
    main()
