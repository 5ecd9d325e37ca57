"""Run a function here, put its model into a bucket, deploy it."""

import argparse
import sys
from pathlib import Path

from deploy import settings
from deploy.errors import UserError
from functions import packaging
from functions.deploy import Target, default_uri, deploy
from functions.registry import FUNCTIONS, Function
from functions.serve import serve


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused."""
    args = _parser().parse_args(words)
    try:
        args.run(FUNCTIONS[args.name], args)
    except UserError as stop:
        sys.exit(f"functions: {stop.message}\n  {stop.hint}")
    except KeyboardInterrupt:
        sys.exit(130)


def _serve(function: Function, args: argparse.Namespace) -> None:
    from functions import upload  # noqa: PLC0415  Google's library takes a second

    uri = args.storage or ""
    if function.model and not uri:
        upload.made(function)
        uri = str(function.made)
    if uri and not uri.startswith("gs://"):
        uri = str(Path(uri).resolve())
    serve(function, args.host, args.port, uri)


def _upload(function: Function, args: argparse.Namespace) -> None:
    from functions import upload  # noqa: PLC0415

    project, region, uri = args.project or "", args.region or "us-central1", args.storage
    if not uri:
        found = _settings(args)
        project, region, uri = found.project, found.region, default_uri(function, found.project)
    upload.upload(function, uri.rstrip("/"), project, region)


def _deploy(function: Function, args: argparse.Namespace) -> None:
    found = _settings(args)
    if not args.dry_run:
        settings.save_defaults(found)
    uri = (args.storage or default_uri(function, found.project)).rstrip("/")
    public, account = args.allow_unauthenticated, args.service_account
    to = Target(found.project, found.region, uri, public, account)
    deploy(function, to, dry_run=args.dry_run)


def _settings(args: argparse.Namespace) -> settings.Settings:
    return settings.load({"project": args.project, "region": args.region})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m functions", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: object) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("name", choices=FUNCTIONS, help="of the function")
        one.set_defaults(run=run)
        return one

    def add_storage(one: argparse.ArgumentParser, text: str) -> None:
        one.add_argument("--storage", metavar="URI", help=text)

    def add_place(one: argparse.ArgumentParser) -> None:
        one.add_argument("--project", help="(default: the one last used)")
        one.add_argument("--region", help="(default: the one last used, or us-central1)")

    one = add("serve", "run it here with functions-framework, until Ctrl-C", _serve)
    one.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    one.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    add_storage(one, "where its model lies: gs://BUCKET/FOLDER (default: where it was made)")
    text = "lay its source out in build/functions, as it is run and deployed"
    add("source", text, lambda function, _: print(packaging.lay_out(function)))
    one = add("upload", "put its model into a bucket", _upload)
    add_storage(one, "gs://BUCKET/FOLDER (default: gs://PROJECT-models/NAME)")
    add_place(one)
    one = add("deploy", "deploy it with gcloud, as a function of the second generation", _deploy)
    add_storage(one, "where its model lies (default: gs://PROJECT-models/NAME)")
    add_place(one)
    one.add_argument(
        "--service-account", default="", metavar="EMAIL", help="(default: the project's own)"
    )
    one.add_argument(
        "--allow-unauthenticated", action="store_true", help="anybody may ask it, and you pay"
    )
    one.add_argument("--dry-run", action="store_true", help="print gcloud's line, run nothing")
    return parser


if __name__ == "__main__":
    main()
