"""Open a page on this machine that sends requests to a model, and shows its answers."""

import argparse
import os
import sys
import webbrowser

from authoring.page.server import HOST, create_server
from authoring.page.targets import (
    Endpoint,
    LocalServer,
    Target,
    find_endpoint,
    open_endpoint,
)
from project import cli
from project.model_folder import Model, add_model_option, find_model

DEFAULT_PORT = 8090


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C; exit with the error if that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m authoring.page", description=__doc__)
    add_model_option(parser)
    add = parser.add_argument
    text = "the server to send requests to (default: %(default)s)"
    add("--url", default="http://127.0.0.1:8080", help=text)
    text = "send requests to this deployed Vertex AI endpoint instead, with gcloud's credentials"
    add("--endpoint", metavar="NAME", help=text)
    add("--project", help="project of the endpoint (default: as deploy.toml)")
    add("--region", help="region of the endpoint (default: as deploy.toml)")
    text = "port of the page on 127.0.0.1 (default: %(default)s)"
    add("--port", type=int, default=DEFAULT_PORT, help=text)
    add("--no-browser", action="store_true", help="only print the address")
    args = parser.parse_args(arguments)
    cli.run("authoring.page", lambda: _serve(args))


def _serve(args: argparse.Namespace) -> None:
    model = find_model(args.model)
    if not model.archive.is_file():
        hint = f"make archive {model.selection}"
        raise cli.ProjectError(f"{model.archive} does not exist: {hint}")
    target = _choose_target(args, model)
    try:
        server = create_server(args.port, model.name, model.archive, target)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        raise cli.ProjectError(
            f"cannot listen on port {args.port}: {reason}; choose another with --port"
        ) from None
    address = f"http://{HOST}:{server.server_address[1]}"
    print(f"{address}  sends requests to {target.url}\nPress Ctrl-C to stop.", flush=True)
    # Without a display, webbrowser would open a browser in this terminal.
    has_display = sys.platform == "darwin" or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))
    )
    if has_display and not args.no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nstopped")


def _choose_target(args: argparse.Namespace, model: Model) -> Target:
    options = {"model": str(model.path), "name": args.endpoint}
    options |= {"project": args.project, "region": args.region}
    if args.endpoint:
        return open_endpoint(options)
    endpoint = find_endpoint(options) or Endpoint(
        model.name, args.project or "PROJECT", args.region or "REGION"
    )
    return LocalServer(f"{args.url.rstrip('/')}{model.predict_route}", endpoint)


if __name__ == "__main__":
    main()
