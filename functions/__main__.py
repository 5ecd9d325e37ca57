"""Run Cloud Functions locally, upload their models, and deploy them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from deploy import cli, settings
from deploy.errors import UserError
from functions.deploy import Target, default_model_uri, deploy
from functions.model_archive import create_function
from functions.packaging import assemble
from functions.registry import FUNCTIONS, Function
from functions.serve import serve
from project.model_folder import ModelFolderError, add_model_option, find_model


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit codes: 0 success, 1 error, 2 invalid arguments, 130 interrupted."""
    args = _build_parser().parse_args(arguments)
    try:
        args.run(_find_function(args.name or args.model), args)
    except UserError as stop:
        sys.exit(f"functions: {stop.message}\n  {stop.hint}")
    except ModelFolderError as error:
        sys.exit(f"functions: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _find_function(name: str | None) -> Function:
    """Return the function of this name, or that of a model; raise UserError and ModelFolderError."""
    return FUNCTIONS.get(name or "") or create_function(find_model(name))


def _serve(function: Function, args: argparse.Namespace) -> None:
    from functions import upload  # noqa: PLC0415  the import of Google's client takes a second

    uri = args.storage or ""
    if function.files and not uri:
        upload.find_model_files(function)
        uri = str(function.files_folder)
    if uri and not uri.startswith("gs://"):
        uri = str(Path(uri).resolve())
    serve(function, args.host, args.port, uri)


def _upload(function: Function, args: argparse.Namespace) -> None:
    from functions import upload  # noqa: PLC0415

    project, region, uri = args.project or "", args.region or "us-central1", args.storage
    if not uri:
        values = _load_settings(function, args)
        project, region = values.project, values.region
        uri = default_model_uri(function, project)
    upload.upload_model(function, uri.rstrip("/"), project, region)


def _deploy(function: Function, args: argparse.Namespace) -> None:
    values = _load_settings(function, args)
    if not args.dry_run:
        settings.save_place(values.model_copy(update={"name": function.name}))
    uri = (args.storage or default_model_uri(function, values.project)).rstrip("/")
    target = Target(
        project=values.project,
        region=values.region,
        uri=uri,
        allow_unauthenticated=args.allow_unauthenticated,
        service_account=args.service_account,
    )
    deploy(function, target, dry_run=args.dry_run)


def _load_settings(function: Function, args: argparse.Namespace) -> settings.Settings:
    model = function.model
    options = {"project": args.project, "region": args.region, "model": model and str(model.path)}
    values = settings.load(options, needs_model=model is not None)
    cli.report_place(values)
    return values


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m functions", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[..., object]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        names = f"{' or '.join(FUNCTIONS)}, or a model as --model has it"
        command.add_argument("name", nargs="?", metavar="NAME", help=names)
        add_model_option(command)
        command.set_defaults(run=run)
        return command

    def add_storage(command: argparse.ArgumentParser, text: str) -> None:
        command.add_argument("--storage", metavar="URI", help=text)

    def add_location(command: argparse.ArgumentParser) -> None:
        add_argument = command.add_argument
        add_argument("--project", help="Google Cloud project (default: that of the last command)")
        add_argument("--region", help="region (default: that of the last command, or us-central1)")

    command = add("serve", "run a function locally with functions-framework, until Ctrl-C", _serve)
    text = "address to listen on (default: %(default)s)"
    command.add_argument("--host", default="127.0.0.1", help=text)
    text = "port to listen on (default: %(default)s)"
    command.add_argument("--port", type=int, default=8080, help=text)
    text = "location of the model: gs://BUCKET/FOLDER or a folder (default: the one in build/)"
    add_storage(command, text)
    text = "copy the source of a function, as it is deployed, to build/functions/NAME"
    add("source", text, lambda function, _: print(assemble(function)))
    command = add("upload", "upload the model of a function to a bucket", _upload)
    add_storage(command, "target, gs://BUCKET/FOLDER (default: gs://PROJECT-models/NAME)")
    add_location(command)
    command = add("deploy", "deploy a function with gcloud", _deploy)
    add_storage(command, "location of the model (default: gs://PROJECT-models/NAME)")
    add_location(command)
    text = "identity of the function (default: the project's default service account)"
    command.add_argument("--service-account", default="", metavar="EMAIL", help=text)
    text = "let anyone call the function, at your cost"
    command.add_argument("--allow-unauthenticated", action="store_true", help=text)
    text = "print gcloud's command without running it"
    command.add_argument("--dry-run", action="store_true", help=text)
    return parser


if __name__ == "__main__":
    main()
