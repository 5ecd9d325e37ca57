"""Put the image on a GKE cluster, as kubernetes/ says, and take it away again.

Of deploy.toml it takes the project, the region, the name (it becomes the namespace), the image,
artifact_uri, service_account, the accelerator and [env]; how many pods, and of what size, is in
kubernetes/.
"""

import argparse
import signal
import sys

from deploy import settings as settings_module
from deploy.__main__ import interrupt
from deploy.errors import Interrupted, Lost, Stop
from deploy.gke import programs


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = _parser().parse_args(words)
    try:
        _run(args)
    except Interrupted:
        print("\ninterrupted. The same command goes on from here.", flush=True)
        sys.exit(130)
    except (Stop, Lost) as stop:
        print(f"deploy.gke: {stop}", file=sys.stderr)
        print(f"  {getattr(stop, 'do', '') or 'run the same command again'}", file=sys.stderr)
        sys.exit(1)


def _run(args: argparse.Namespace) -> None:
    found = settings_module.read(vars(args), file=args.settings)
    if not args.cluster:
        raise Stop(
            "no cluster is named",
            f"CLUSTER=…, one of: gcloud container clusters list --project={found.project}",
        )
    programs.require()
    # So far nothing has waited for Google's libraries.
    from deploy.gke.cluster import Cluster  # noqa: PLC0415
    from deploy.google import Google  # noqa: PLC0415

    if not args.dry_run:
        settings_module.remember(found)
    run = programs.Programs(_say, args.dry_run)
    there = Cluster(args.cluster, args.location or found.region, found, run)
    if args.command == "deploy":
        there.deploy(Google(found, _say, dry_run=args.dry_run), queue_wait=args.queue_wait)
    else:
        there.undeploy(yes=args.yes)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.gke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--cluster", default="", help="the cluster's name")
        one.add_argument("--location", default="", help="its region or zone (default: the region)")
        one.add_argument("--project", help="(default: the one last used)")
        one.add_argument("--region", help="of the image (default: the one last used)")
        one.add_argument(
            "--settings",
            type=type(settings_module.FILE),
            default=settings_module.FILE,
            metavar="FILE",
            help="(default: deploy.toml)",
        )
        one.add_argument(
            "--dry-run", action="store_true", help="print what would be run, change nothing"
        )
        return one

    one = add("deploy", "let three pods and more of the image answer in a cluster")
    one.add_argument("--image", help="NAME@sha256:… (default: the one of these sources)")
    one.add_argument(
        "--queue-wait",
        action="store_true",
        help="scale by what requests wait, too: needs the Prometheus adapter (docs/kubernetes.md)",
    )
    one = add("undeploy", "delete all of that; it asks first")
    one.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    main()
