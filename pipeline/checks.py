"""What is at Google already, for the steps that go on from it: image, tested or serves."""

import argparse
import json
import sys

from deploy import settings
from deploy.errors import UserError
from deploy.gcp import Google
from deploy.image import find, fingerprint, run
from pipeline.predictors import serves


def image(google: Google) -> str:
    """Return the image in the registry that was built of these very sources."""
    found = find(google)
    if found is None:
        raise UserError("the image is not in the registry", "python -m deploy build")
    return found.uri


def tested(google: Google) -> str:
    """Say which build of Cloud Build put this image to its tests and the contract suite before it pushed it."""
    s, tag = google.settings, fingerprint()
    place = [f"--project={s.project}", f"--region={s.region}"]
    listed = run(google, ["gcloud", "builds", "list", "--format=json", "--limit=200", *place])
    for build in json.loads(listed):
        passed = {
            step.get("id") for step in build.get("steps", []) if step.get("status") == "SUCCESS"
        }
        if "tests" in passed and build.get("substitutions", {}).get("_TAG") == tag:
            return (
                f"kept: Cloud Build put {tag} to the contract in step tests of build {build['id']}"
            )
    raise UserError(
        f"no build of {tag} in {s.region} put it to the contract",
        "delete that tag from the registry, so that Cloud Build builds and tests it",
    )


def serving(google: Google) -> str:
    """Return yes where the endpoint answers somebody, or no."""
    return "yes" if serves(google) else "no"


ASKED = {"image": image, "tested": tested, "serves": serving}


def main(words: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.checks", description=__doc__)
    parser.add_argument("what", choices=ASKED)
    for name in ("project", "region", "builder"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args(words)
    try:
        print(ASKED[args.what](Google(settings.read(vars(args)))))
    except UserError as stop:
        sys.exit(f"pipeline.checks: {stop.message}\n  {stop.hint}")


if __name__ == "__main__":
    main()
