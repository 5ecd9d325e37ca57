"""Put the model behind a Vertex AI endpoint, change who serves, and take all of it away again.

Every command looks at what there is, does what is missing, and can be run again after whatever
interrupted it. Settings: deploy.toml, DEPLOY_* variables, or the options below.
"""

import argparse
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy import canary_analysis, cli, image, predict, rollout, settings, teardown, versions
from deploy import status as status_module

GOES_ON = (
    "What Google has begun goes on there. The same command goes on from here; `python -m deploy status` shows "
    "what runs, `rollback` goes back, `teardown` ends everything."
)


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = _parser().parse_args(words)
    cli.run("deploy", lambda: _run(args), GOES_ON)


def _run(args: argparse.Namespace) -> None:
    found = settings.read(vars(args), file=args.settings)
    from deploy.gcp import Google  # noqa: PLC0415  --help must not wait for Google's libraries

    google = Google(found, cli.say, dry_run=args.dry_run)
    if not args.dry_run:
        settings.remember(found)
    _, *options = inspect.signature(args.run).parameters
    args.run(google, **{name: getattr(args, name) for name in options})


def _percent(text: str) -> int:
    value = int(text.removesuffix("%")) if text.removesuffix("%").isdigit() else 0
    if not 1 <= value <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and 99")
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not JSON such as {{"top_k": 1}}') from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    settings.add_options(common)

    def add(run: Callable[..., None], text: str) -> Callable[..., Any]:
        # A command is a function of Google and of its own options, by their names.
        name = run.__name__.replace("_", "-")
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(run=run)
        return made.add_argument

    yes: dict[str, Any] = {"action": "store_true", "help": "ask nothing"}
    version = {"default": "", "help": "(default: that of the image)"}
    picture: dict[str, Any] = {"type": Path, "metavar": "FILE"}

    option = add(
        rollout.endpoint, "do all that is missing, from the image to an endpoint that answers"
    )
    text = "the picture or request.json to try it with (default: a held-out digit)"
    option("--request", help=text, **picture)
    option = add(image.build, "build the image, with Cloud Build or here (--builder), and push it")
    serve = ("upload", "deploy", "canary")
    option("--serve", choices=serve, help="let Cloud Build go on with that")
    add(versions.upload, "register the image as a new version of the model; prints the version")
    option = add(
        rollout.deploy,
        "let a version serve everything; the one before stays, without traffic, for a rollback",
    )
    option("--version", **version)
    option = add(rollout.canary, "let a version serve a part of the traffic")
    option("--version", **version)
    option("--traffic", type=_percent, default=10, metavar="PERCENT", help="(default: 10)")
    text = "such as 10m: watch it, and roll back by itself if it breaks a limit"
    option("--watch", type=canary_analysis.minutes, metavar="TIME", help=text)
    text = "5xx of all answers (default: 1%%)"
    option("--max-error-rate", type=canary_analysis.rate, default="1%", metavar="RATE", help=text)
    unlimited: dict[str, Any] = {"default": float("inf"), "help": "such as 300ms"}
    option("--max-p95", type=canary_analysis.milliseconds, metavar="TIME", **unlimited)
    add(rollout.promote, "let the canary serve everything")
    add(rollout.rollback, "let the version before serve everything again, and end the other")
    option = add(predict.predict, "send a request and print the answer")
    text = "a picture, or request.json (default: a held-out digit)"
    option("source", nargs="?", help=text, **picture)
    option = add(predict.batch_predict, "predict for every line of a JSONL file in a bucket")
    text = "JSON lines, an instance each; a * at the end for several files"
    option("--input", dest="source", required=True, metavar="gs://…", help=text)
    option("--output", required=True, metavar="gs://…", help="the folder for the answers")
    option("--parameters", type=_json, metavar="JSON", help="the requests' parameters")
    option("--version", **version)
    option("--replicas", type=int, default=1, help="(default: 1)")
    add(status_module.status, "what runs, at which traffic, since when, and what it costs")
    option = add(teardown.undeploy, "end what is deployed; the endpoint and the model stay")
    option("--version", default="", help="only this one")
    option("--idle", action="store_true", help="only what has no traffic")
    option("--yes", **yes)
    option = add(
        teardown.teardown,
        "delete everything that costs: endpoint, model, jobs, images, build sources",
    )
    option("--keep-images", action="store_true", help="keep images and build sources")
    option("--yes", **yes)
    return parser


if __name__ == "__main__":
    cli.handle_signals()
    main()
