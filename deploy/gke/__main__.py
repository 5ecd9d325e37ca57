"""Put the image on a GKE cluster, as kubernetes/ says, and take it away again.

Of deploy.toml it takes the project, the region, the name (it becomes the namespace), the image,
artifact_uri, service_account, the accelerator and [env]; how many pods, and of what size, is in
kubernetes/.
"""

import argparse

from deploy import cli, programs, settings
from deploy.errors import UserError
from deploy.gke.cluster import Cluster
from deploy.gke.overlay import KUBECONFIG


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = _parser().parse_args(words)
    cli.run("deploy.gke", lambda: _run(args), "The same command goes on from here.")


def _run(args: argparse.Namespace) -> None:
    found = settings.load(vars(args), file=args.settings)
    if not args.cluster:
        raise UserError(
            "no cluster is named",
            f"CLUSTER=…, one of: gcloud container clusters list --project={found.project}",
        )
    programs.require("gcloud", "kubectl", "gke-gcloud-auth-plugin")
    if not args.dry_run:
        settings.save_defaults(found)
    run = programs.Programs(cli.report, args.dry_run, environ={"KUBECONFIG": str(KUBECONFIG)})
    there = Cluster(args.cluster, args.location or found.region, found, run)
    if args.command == "deploy":
        from deploy.gcp import CloudClients  # noqa: PLC0415  nothing else waits for Google's libraries

        there.deploy(
            CloudClients.create(found, cli.report, dry_run=args.dry_run), queue_wait=args.queue_wait
        )
    else:
        there.undeploy(yes=args.yes)


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
        settings.add_options(one, ("project", "region", "image"))
        return one

    one = add("deploy", "let three pods and more of the image answer in a cluster")
    one.add_argument(
        "--queue-wait",
        action="store_true",
        help="scale by what requests wait, too: needs the Prometheus adapter (docs/kubernetes.md)",
    )
    one = add("undeploy", "delete all of that; it asks first")
    one.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


if __name__ == "__main__":
    cli.handle_signals()
    main()
