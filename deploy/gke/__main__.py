"""Deploy the image to a GKE cluster with the manifests in kubernetes/, or delete the deployment.

MODEL or --model selects the model, whose name is that of the namespace. deploy.toml, here and in the model's folder,
sets the project, the region, the image, artifact_uri, service_account, the accelerator and its parts, [env], and if
they differ from the model's, the name and predict_route. The manifests set the number and size of the pods.
"""

import argparse

from deploy import cli, programs, settings
from deploy.clients import CloudClients
from deploy.conflicts import find_gke_conflicts
from deploy.errors import UserError
from deploy.gke.cluster import Cluster
from deploy.gke.kubectl import Kubectl
from deploy.gke.overlay import OVERLAYS, Scaling


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit codes: 0 success, 1 error, 2 invalid arguments, 130 interrupted."""
    args = _build_parser().parse_args(arguments)
    cli.run("deploy.gke", lambda: _run(args), lambda: "Run the same command to continue.")


def _run(args: argparse.Namespace) -> None:
    values = settings.load(vars(args), file=args.settings, check=False)
    if args.command == "deploy":
        conflicts = find_gke_conflicts(values, duty_cycle=args.duty_cycle)
        settings.check_conflicts(values, conflicts, args.settings)
    cli.report_place(values)
    if not args.cluster:
        hint = f"CLUSTER=…, one of: gcloud container clusters list --project={values.project}"
        raise UserError("no cluster given", hint)
    programs.require("gcloud", "kubectl", "gke-gcloud-auth-plugin")
    if args.command == "deploy" and not args.dry_run:
        settings.save_place(values)

    def report(line: str) -> None:
        cli.report(values.add_model(line))

    cluster = Cluster(
        name=args.cluster,
        location=args.location or values.region,
        settings=values,
        kubectl=Kubectl(
            kubeconfig=OVERLAYS / values.name / "kubeconfig", report=report, dry_run=args.dry_run
        ),
    )
    try:
        if args.command == "deploy":
            cloud = CloudClients.create(values, report, dry_run=args.dry_run)
            scaling = Scaling(queue_wait=args.queue_wait, duty_cycle=args.duty_cycle)
            cluster.deploy(cloud, scaling)
        else:
            cluster.undeploy(yes=args.yes)
    except UserError as error:
        raise UserError(values.add_model(error.message), values.add_model(error.hint)) from error


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.gke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--cluster", default="", help="the cluster's name")
        text = "the cluster's region or zone (default: the region of the settings)"
        command.add_argument("--location", default="", help=text)
        settings.add_options(command, ("project", "region", "image"))
        return command

    command = add("deploy", "deploy the image to a cluster, as three or more pods")
    text = "scale by the queue wait of requests, too; needs the Prometheus adapter (docs/kubernetes.md)"
    command.add_argument("--queue-wait", action="store_true", help=text)
    text = (
        "with GPUs: scale by their duty cycle, too, with the target gpu_percent, as CPU use is a poor measure of their "
        "load; needs Google's metrics adapter (docs/kubernetes.md)"
    )
    command.add_argument("--duty-cycle", action="store_true", help=text)
    command = add("undeploy", "delete the deployment, after a confirmation")
    command.add_argument("--yes", action="store_true", help="skip the confirmation")
    return parser


if __name__ == "__main__":
    cli.handle_signals()
    main()
