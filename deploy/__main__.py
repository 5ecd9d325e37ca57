"""Deploy the model to a Vertex AI endpoint, change which version serves, and delete everything again.

Every command does only what is missing, and can be run again after an interruption.
MODEL or --model selects the model. Settings are read from, the first that sets one: an option, a variable such as
DEPLOY_REGION, deploy.toml in the model's folder, deploy.toml here. Project and region then default to those of the
last command that created something; before the first one, to GOOGLE_CLOUD_PROJECT or CLOUDSDK_CORE_PROJECT and to
us-central1. Each command prints which it uses.
"""

import argparse
import inspect
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # an interruption of the imports below, which take a third of a second
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

from deploy import (
    batch_predict,
    batch_request,
    canary_analysis,
    cli,
    image,
    predict,
    rollout,
    settings,
    status,
    teardown,
    versions,
)
from deploy.clients import CloudClients
from deploy.conflicts import find_build_conflicts
from deploy.errors import UserError

CONTINUES = (
    "Operations that have started continue at Google. Run the same command again to continue from here; "
    "the command `status` shows what runs, `rollback` undoes a rollout, `teardown` deletes everything."
)
UNCHANGED = "Nothing was begun and nothing was deleted."
CREATING = (
    *(rollout.deploy_all, rollout.deploy, rollout.canary, rollout.promote, rollout.rollback),
    *(image.build, versions.upload, batch_predict.run_batch),
)
"""Commands that create something: the next commands use their project and region."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit codes: 0 success, 1 error, 2 invalid arguments, 130 interrupted."""
    args = _build_parser().parse_args(arguments)
    changes: list[str] = []
    cli.run("deploy", lambda: _run(args, changes), lambda: CONTINUES if changes else UNCHANGED)


def _run(args: argparse.Namespace, changes: list[str]) -> None:
    """Run a command; append to `changes` what it begins to change."""
    is_build = args.run is image.build
    check = args.run in CREATING and not is_build
    values = settings.load(vars(args), file=args.settings, check=check)
    if is_build:
        settings.check_conflicts(values, find_build_conflicts(values), args.settings)
    cloud = CloudClients.create(
        values,
        lambda line: cli.report(values.add_model(line)),
        dry_run=args.dry_run,
        changes=changes,
    )
    cli.report_place(values)
    if args.run in CREATING and not args.dry_run:
        settings.save_place(values)
    # A command is a function of the clients and of its own options, by name.
    _, *options = inspect.signature(args.run).parameters
    try:
        args.run(cloud, **{name: getattr(args, name) for name in options})
    except UserError as error:
        raise UserError(values.add_model(error.message), values.add_model(error.hint)) from error


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    settings.add_options(common)

    def add(name: str, run: Callable[..., None], text: str) -> Callable[..., Any]:
        """Add a command; return the method that adds an option to it."""
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(run=run)
        return command.add_argument

    version = {"default": "", "help": "version of the model (default: the version of the image)"}
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}

    option = add(
        "endpoint",
        rollout.deploy_all,
        "build, upload and deploy what is missing, and send the endpoint the requests of the model",
    )
    text = (
        "JSON file with one request to send instead, or an image for the first request of the model"
    )
    option("--request", help=text, **file)

    option = add(
        "build", image.build, "build and push the image, with Cloud Build or --builder local"
    )
    serve = ("upload", "deploy", "canary")
    option("--serve", choices=serve, help="command that Cloud Build runs after the build")

    add(
        "upload",
        versions.upload,
        "upload the image as a version of the model, and print the version",
    )

    option = add(
        "deploy",
        rollout.deploy,
        "route all traffic to a version; the previous one stays deployed for a fast rollback",
    )
    option("--version", **version)

    option = add("canary", rollout.canary, "route part of the traffic to a version")
    option("--version", **version)
    text = "share of the traffic, 1 to 99 (default: 10)"
    option(
        "--traffic", type=canary_analysis.parse_percent, default=10, metavar="PERCENT", help=text
    )
    text = "watch the canary for this time, from 5m to 48h, and roll back if it exceeds a limit"
    option("--watch", type=canary_analysis.parse_minutes, metavar="TIME", help=text)
    text = "with --watch: limit of 5xx among all responses (default: 1%%)"
    option("--max-error-rate", type=canary_analysis.parse_rate, metavar="RATE", help=text)
    text = "with --watch: limit of the p95 latency, such as 300ms (default: none)"
    option("--max-p95", type=canary_analysis.parse_milliseconds, metavar="TIME", help=text)

    add("promote", rollout.promote, "route all traffic to the canary")
    add(
        "rollback",
        rollout.rollback,
        "route all traffic to the previous version, and undeploy the other",
    )

    option = add("predict", predict.predict, "send a request and print the response")
    text = "JSON file with a request, or an image for the first request of the model (default: that request)"
    option("source", nargs="?", help=text, **file)

    _add_batch_options(
        add(
            "batch-predict",
            batch_predict.run_batch,
            "predict every instance of files in a bucket or of a table in BigQuery",
        ),
        version,
    )
    _add_deleting(add)
    return parser


def _add_deleting(add: Callable[..., Callable[..., Any]]) -> None:
    """Add the commands that show and delete what costs."""
    yes: dict[str, Any] = {"action": "store_true", "help": "delete without a prompt"}
    option = add(
        "status",
        status.status,
        "show what is deployed and what runs, its traffic, age and cost, in every region where the name was deployed",
    )
    all_regions: dict[str, Any] = {
        "action": "store_true",
        "help": "search every region of the project, also those that this machine has not deployed to",
    }
    option("--all-regions", **all_regions)

    option = add(
        "undeploy", teardown.undeploy, "undeploy versions, and keep the endpoint and the model"
    )
    option("--version", default="", help="undeploy only this version")
    option("--idle", action="store_true", help="undeploy only versions without traffic")
    option("--yes", **yes)

    option = add(
        "teardown",
        teardown.teardown,
        "cancel and delete everything of the name, in every region where it was deployed: builds, jobs, schedules, "
        "function, endpoint, model, images, build sources",
    )
    option("--all-regions", **all_regions)
    option("--keep-images", action="store_true", help="keep images and build sources")
    option("--yes", **yes)


def _add_batch_options(option: Callable[..., Any], version: dict[str, Any]) -> None:
    formats = batch_request.INPUT_FORMATS
    text = "files, in which * matches several, or a table bq://PROJECT.DATASET.TABLE"
    uris: dict[str, Any] = {"dest": "sources", "nargs": "+", "metavar": "URI"}
    option("--input", required=True, help=text, **uris)
    text = (
        "format of the input (default: by its name, or jsonl: an instance of requests.json a line)"
    )
    option("--input-format", choices=formats, default="", help=text)
    text = "folder for the results, gs://BUCKET/FOLDER, or bq://PROJECT.DATASET"
    option("--output", required=True, metavar="URI", help=text)
    text = "format of the results (default: jsonl, or bigquery for bq://)"
    option("--output-format", choices=batch_request.OUTPUT_FORMATS, default="", help=text)
    option("--parameters", type=_parse_json, metavar="JSON", help="parameters of the requests")
    text = "what a row or line becomes (default: array of a row, and of a line of JSON what it is)"
    option("--instance-type", choices=batch_request.INSTANCE_TYPES, default="", help=text)
    names: dict[str, Any] = {"type": _parse_names, "default": (), "metavar": "NAME,…"}
    text = "only fields that are sent to the model, in this order"
    option("--include-fields", dest="included_fields", help=text, **names)
    text = "fields that are not sent to the model"
    option("--exclude-fields", dest="excluded_fields", help=text, **names)
    text = "field that identifies an instance: not sent, and in the results in its place"
    option("--key-field", default="", metavar="NAME", help=text)
    option("--version", **version)
    option("--replicas", type=_parse_count, default=1, help="number of replicas (default: 1)")
    text = "instances in each request to a replica (default: Google's, 64)"
    option("--batch-size", type=_parse_count, default=0, help=text)


def _parse_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different names, such as a,b")
    return names


def _parse_count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= batch_request.MAX_REPLICAS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from 1 to {batch_request.MAX_REPLICAS}"
        )
    return int(text)


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"top_k": 1}}')
    return value


def _reject_constant(name: str) -> None:
    raise ValueError(name)


if __name__ == "__main__":
    cli.handle_signals()
    main()
