"""Run one of the Google Cloud queries that the pipeline's steps need, and print its result.

image        the URI of the image in the registry that was built from these sources
contract     the Cloud Build that tested this image against the container contract
has-traffic  yes or no: whether a model of the endpoint receives traffic
"""

import argparse

from deploy import cli, cloud_build, registry, settings
from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.fingerprint import image_tag
from pipeline.predictors import has_traffic
from project.model_folder import add_model_option


def find_image(cloud: CloudClients) -> str:
    """Return the URI of the image in the registry that was built from these sources."""
    image = registry.find_image(cloud)
    if image is None:
        raise UserError("the image is not in the registry", "make push")
    return image.uri


def find_contract_build(cloud: CloudClients) -> str:
    """Return a sentence with the build whose step `tests`, which runs the contract suite, succeeded for this image."""
    tag = image_tag(cloud.settings.sources)
    if build := cloud_build.find_tested_build(cloud, tag):
        return f"PASS: Cloud Build tested {tag} in step tests of build {build['id']}"
    raise UserError(
        f"no build in {cloud.settings.region} tested {tag} against the container contract",
        "delete that tag from the registry; then Cloud Build builds and tests the image again",
    )


def check_traffic(cloud: CloudClients) -> str:
    """Return yes or no: whether a model of the endpoint receives traffic."""
    return "yes" if has_traffic(cloud) else "no"


QUERIES = {"image": find_image, "contract": find_contract_build, "has-traffic": check_traffic}


def main(arguments: list[str] | None = None) -> None:
    """Run a query and print its result; exit with 1 and the reason if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.checks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("query", choices=QUERIES, help="described above")
    add_model_option(parser)
    for name in ("project", "region", "builder"):
        parser.add_argument(f"--{name}", help=f"{name} (default: that of deploy.toml)")
    args = parser.parse_args(arguments)
    query = QUERIES[args.query]
    cli.run("pipeline.checks", lambda: print(query(CloudClients.create(settings.load(vars(args))))))


if __name__ == "__main__":
    cli.handle_signals()
    main()
