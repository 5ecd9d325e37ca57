"""Put the model behind a Vertex AI endpoint, change who serves, and take all of it away again.

Every command looks at what there is, does what is missing, and can be run again after whatever
interrupted it. Settings: deploy.toml, DEPLOY_* variables, or the options below.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from deploy import settings as settings_module
from deploy.errors import Interrupted, Stop

GOES_ON = (
    "What Google has begun goes on there. The same command goes on from here; `python -m deploy status` shows "
    "what runs, `rollback` goes back, `teardown` ends everything."
)


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = _parser().parse_args(words)
    try:
        _run(args, settings_module.read(vars(args), file=args.settings))
    except Interrupted:
        _say(f"\ninterrupted. {GOES_ON}")
        sys.exit(130)
    except Stop as stop:
        print(f"deploy: {stop.what}", file=sys.stderr)
        if stop.do:
            print(f"  {stop.do}", file=sys.stderr)
        sys.exit(1)


def _run(args: argparse.Namespace, found: settings_module.Settings) -> None:
    from deploy import commands  # noqa: PLC0415  --help must not wait for Google's libraries

    google = commands.Google(found, _say, dry_run=args.dry_run)
    if not args.dry_run:
        settings_module.remember(found)
    getattr(commands, args.run)(google, args)


def _say(line: str) -> None:
    print(line, flush=True)


def interrupt(*_: Any) -> None:
    """End the command in good order, as a signal asks for it."""
    raise Interrupted


def _percent(text: str) -> int:
    value = int(text.removesuffix("%")) if text.removesuffix("%").isdigit() else 0
    if not 1 <= value <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and 99")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = _common()

    def add(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(run=run)
        return made

    one = add(
        "endpoint", "endpoint", "do all that is missing, from the image to an endpoint that answers"
    )
    one.add_argument(
        "--request",
        type=Path,
        default=Path(),
        metavar="FILE",
        help="the picture or request.json to try it with (default: a held-out digit)",
    )
    one = add(
        "build", "build", "build the image, with Cloud Build or here (--builder), and push it"
    )
    one.add_argument(
        "--serve", choices=("upload", "deploy", "canary"), help="let Cloud Build go on with that"
    )
    add("upload", "upload", "register the image as a new version of the model; prints the version")
    one = add(
        "deploy",
        "deploy",
        "let a version serve everything; the one before stays, without traffic, for a rollback",
    )
    one.add_argument("--version", help="(default: that of the image)")
    one = add("canary", "canary", "let a version serve a part of the traffic")
    one.add_argument("--version", help="(default: that of the image)")
    one.add_argument(
        "--traffic", type=_percent, default=10, metavar="PERCENT", help="(default: 10)"
    )
    one.add_argument(
        "--watch",
        metavar="TIME",
        help="such as 10m: watch it, and roll back by itself if it breaks a limit",
    )
    one.add_argument(
        "--max-error-rate", default="1%", metavar="RATE", help="5xx of all answers (default: 1%%)"
    )
    one.add_argument("--max-p95", metavar="TIME", help="such as 300ms")
    add("promote", "promote", "let the canary serve everything")
    add("rollback", "rollback", "let the version before serve everything again, and end the other")
    one = add("predict", "predict", "send a request and print the answer")
    one.add_argument(
        "source",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a picture, or request.json (default: a held-out digit)",
    )
    one = add(
        "batch-predict", "batch_predict", "predict for every line of a JSONL file in a bucket"
    )
    one.add_argument(
        "--input",
        required=True,
        metavar="gs://…",
        help="JSON lines, an instance each; a * at the end for several files",
    )
    one.add_argument("--output", required=True, metavar="gs://…", help="the folder for the answers")
    one.add_argument("--parameters", default="", metavar="JSON", help="the requests' parameters")
    one.add_argument("--version", help="(default: that of the image)")
    one.add_argument("--replicas", type=int, default=1, help="(default: 1)")
    add("status", "status", "what runs, at which traffic, since when, and what it costs")
    one = add("undeploy", "undeploy", "end what is deployed; the endpoint and the model stay")
    one.add_argument("--version", help="only this one")
    one.add_argument("--idle", action="store_true", help="only what has no traffic")
    one.add_argument("--yes", action="store_true", help="ask nothing")
    one = add(
        "teardown",
        "teardown_",
        "delete everything that costs: endpoint, model, jobs, images, build sources",
    )
    one.add_argument("--keep-images", action="store_true", help="keep images and build sources")
    one.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dry-run", action="store_true", help="print the calls that would be made, change nothing"
    )
    common.add_argument(
        "--settings",
        type=Path,
        default=settings_module.FILE,
        metavar="FILE",
        help="(default: deploy.toml)",
    )
    group = common.add_argument_group("settings")
    for name, (default, text) in settings_module.explained().items():
        kind = settings_module.TYPES[name]
        if name != "env":
            shown = f"{text} (default: {default})" if default not in ("", 0) else text
            option = f"--{name.replace('_', '-')}"
            if kind is bool:
                group.add_argument(
                    option, action=argparse.BooleanOptionalAction, default=None, help=text
                )
            else:
                group.add_argument(
                    option,
                    type=kind,
                    help=shown.replace("%", "%%"),
                    metavar=name.rsplit("_", 1)[-1].upper(),
                )
    return common


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    main()
