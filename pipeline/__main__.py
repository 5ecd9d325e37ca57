"""Run the pipeline from training data, or trained weights in a bucket, to an endpoint.

The steps, in order: train, archive, evaluate, gate, build, contract, upload, canary, promote. `run` runs them
on this machine, without --project up to contract; `submit` runs them on Vertex AI Pipelines.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from contract.docker import Docker
from deploy import cli, settings
from deploy.errors import UserError
from deploy.fingerprint import fingerprint
from pipeline import lineage
from pipeline.options import replace_old_names
from pipeline.steps import CACHED, RECORDS_VARIABLE, ROOT, STEP_LINE_PREFIX, STEPS
from project.model_folder import Model, ModelFolderError, add_model_option, find_model

FOLDER = ROOT / "build/pipeline"
KFP_PYTHON = FOLDER / "venv/bin/python"
"""kfp has an environment of its own: it needs an older protobuf than Google's current clients."""
COMPILED = ROOT / "pipeline/pipeline.yaml"
LOCAL_STEPS = STEPS[: STEPS.index("upload")]
LOCKS = ("requirements/torch.lock", "requirements/dev.lock")
TRAINING_SOURCES = ("project", "task", *LOCKS)
"""The files that a cached training depends on, beside the model's folder."""
ARCHIVE_SOURCES = ("authoring", "handler", "project", "serving", "task", *LOCKS)
"""The files that a cached archive depends on, beside the training and the model's folder."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit codes: 0 success, 1 error, 2 invalid arguments, 130 interrupted."""
    arguments = replace_old_names(sys.argv[1:] if arguments is None else arguments)
    args = build_parser().parse_args(arguments)
    cli.run("pipeline", lambda: args.run(args))


def run(args: argparse.Namespace) -> None:
    """Run the pipeline on this machine."""
    has_docker = Docker(os.environ.get("DOCKER", "docker")).is_available()
    last = STEPS[-1] if args.project else LOCAL_STEPS[-1]
    until = args.until or (last if args.project or has_docker else "gate")
    if until not in LOCAL_STEPS and not args.project:
        hint = "pass --project PROJECT, or --until contract"
        raise UserError(f"step {until} needs a project", hint)
    if STEPS.index(until) >= STEPS.index("build") and not has_docker:
        raise UserError(
            "step build needs a Docker engine, and none is running",
            "start Docker, or pass --until gate",
        )
    model = _find_model(args.model)
    parameters = json.dumps(_parameters(args, model, builder="local"))
    command = [str(_find_kfp_python()), "-m", "pipeline.local_runner", f"--root={FOLDER}"]
    command += [
        f"--name={model.name}",
        f"--until={until}",
        f"--parameters={parameters}",
        "--cached",
        *_cached(args),
    ]
    records = FOLDER / "runs" / f"{time.strftime('%Y-%m-%d-%H-%M-%S')}.jsonl"
    records.parent.mkdir(parents=True, exist_ok=True)
    log = records.with_suffix(".log")
    variables = {"PIPELINE_PYTHON": sys.executable, RECORDS_VARIABLE: str(records)}
    exit_code = _run_logged(command, variables, log)
    print(f"\nrecords   {records}\nfull log  {log}")
    if exit_code:
        raise UserError(
            "a step failed; the steps after it did not run",
            "the reason is printed above; the full log has details",
        )


def _run_logged(command: list[str], variables: dict[str, str], log: Path) -> int:
    """Run kfp's runner, write its output to a log and print the steps' own lines; return its exit code."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            _, prefix, step_line = line.partition(STEP_LINE_PREFIX)
            if prefix:
                print(step_line, end="", flush=True)
    return process.returncode


def submit(args: argparse.Namespace) -> None:
    """Run the pipeline on Vertex AI, now or on a schedule."""
    from pipeline import vertex_runner  # noqa: PLC0415  --help must not wait for Google's libraries

    model = _find_model(args.model)
    _check_remote_options(args)
    cloud = vertex_runner.connect(args.project, args.region, model)
    settings.save_place(cloud.settings)
    args.project, args.region = cloud.settings.project, cloud.settings.region
    args.serving = args.serving or "endpoint"
    template = FOLDER / "pipeline.yaml"
    image = args.image or vertex_runner.ensure_steps_image(cloud)
    _compile(template, model.name, args.until, image, _cached(args))
    parameters = _parameters(args, model, builder="cloud")
    root = args.pipeline_root or vertex_runner.get_or_create_root(cloud)
    parameters["model"] = vertex_runner.upload_model(cloud, model, root)
    job = vertex_runner.build_job(cloud, template, parameters, root)
    if args.cron:
        vertex_runner.create_schedule(cloud, job, args.cron, args.run_as)
    else:
        vertex_runner.submit(cloud, job, args.run_as, wait=args.wait)


def _check_remote_options(args: argparse.Namespace) -> None:
    """Raise UserError for a path on this machine, and map gs:// in --data to its mount point on Vertex AI."""
    for name, prefix, expected in (
        ("weights", "gs://", "gs://BUCKET/FOLDER"),
        ("data", "gs://", "gs://BUCKET/FOLDER"),
        ("serving", ("https://", "http://", "endpoint", "none"), "URL, endpoint or none"),
    ):
        value = getattr(args, name)
        if value and not value.startswith(prefix):
            reason = f"--{name} {value}: steps on Vertex AI cannot read files of this machine"
            raise UserError(reason, f"pass --{name} {expected}")
    if args.data:
        args.data = f"/gcs/{args.data.removeprefix('gs://')}"


def schedules(args: argparse.Namespace) -> None:
    """Print or delete the schedules."""
    from pipeline import vertex_runner  # noqa: PLC0415

    cloud = vertex_runner.connect(args.project, args.region, _find_model(args.model))
    if args.delete:
        vertex_runner.delete_schedules(cloud)
    else:
        vertex_runner.print_schedules(cloud)


def compile_(args: argparse.Namespace) -> None:
    """Write the committed YAML."""
    _compile(args.out)
    print(args.out)


def print_lineage(args: argparse.Namespace) -> None:
    """Print the steps that created the local archive."""
    print(lineage.describe(FOLDER / "runs", _find_model(args.model)))


def _find_model(value: str | None) -> Model:
    """Return the model that is selected; raise UserError if it is none, or has no folder."""
    try:
        model = find_model(value)
    except ModelFolderError as error:
        raise UserError(str(error), "see docs/models.md") from None
    if model.is_archive:
        raise UserError(f"{model.path}: the pipeline packs a model's folder", "set MODEL to one")
    return model


def _parameters(args: argparse.Namespace, model: Model, builder: str) -> dict[str, Any]:
    """Return the pipeline's parameters from the options; unset options keep the pipeline's defaults."""
    names = {*vars(_pipeline_options().parse_args([])), "project", "region"} - {"no_cache"}
    parameters = {name: value for name, value in vars(args).items() if name in names}
    for name in ("weights", "data"):
        if parameters[name] and "://" not in parameters[name]:
            parameters[name] = str(Path(parameters[name]).resolve())
    if not parameters["serving"]:
        local_archive = str(model.archive.resolve()) if model.archive.is_file() else "none"
        parameters["serving"] = "endpoint" if args.project else local_archive
    own = fingerprint(model.path, [""])
    parameters |= {
        "model": str(model.path.resolve()),
        "source_hash": f"{own}-{fingerprint(ROOT, TRAINING_SOURCES)}",
        "archive_hash": f"{own}-{fingerprint(ROOT, ARCHIVE_SOURCES)}",
        "builder": builder,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _cached(args: argparse.Namespace) -> list[str]:
    """Return the steps that are cached: without `train` for the user's own files, which can change."""
    own_files = args.weights or args.data
    return [name for name in CACHED if not args.no_cache and not (name == "train" and own_files)]


def _compile(
    path: Path,
    name: str = "",
    until: str = STEPS[-1],
    image: str = "",
    cached: Collection[str] = CACHED,
) -> None:
    command = [str(_find_kfp_python()), "-m", "pipeline.definition"]
    command += ["--out", str(path), "--until", until]
    command += [*(["--name", name] if name else []), *(["--image", image] if image else [])]
    command += ["--cached", *cached]
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if completed.returncode:
        reason = completed.stderr.strip().splitlines()[-1]
        raise UserError(f"the pipeline could not be compiled: {reason}")


def _find_kfp_python() -> Path:
    if not KFP_PYTHON.is_file():
        hint = "make build/pipeline/venv/ready"
        raise UserError("kfp is not installed in its environment, build/pipeline/venv", hint)
    return KFP_PYTHON


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description=__doc__, formatter_class=formatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add_command(
        name: str,
        function: Callable[[argparse.Namespace], None],
        text: str,
        parents: Sequence[argparse.ArgumentParser] = (),
        **defaults: Any,
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=parents)
        command.set_defaults(run=function, **defaults)
        return command

    target = argparse.ArgumentParser(add_help=False)
    add_model_option(target)
    text = "Google Cloud project; run ends at the step contract without it, submit uses the last one or deploy.toml's"
    target.add_argument("--project", help=text)
    target.add_argument("--region", help="region (default: the last one, or that of deploy.toml)")
    options = [_pipeline_options(), target]
    text = "run the pipeline on this machine with kfp's local runner"
    add = add_command("run", run, text, options).add_argument
    text = "last step (default: promote with --project, contract without, gate without Docker)"
    add("--until", choices=STEPS, help=text)
    text = "run the pipeline on Vertex AI Pipelines, now or on a schedule"
    add = add_command("submit", submit, text, options).add_argument
    add("--until", choices=STEPS, default=STEPS[-1], help="last step (default: %(default)s)")
    text = "image for the steps (default: built from these sources by Cloud Build)"
    add("--image", metavar="URI", help=text)
    text = "service account of the steps (default: Compute Engine's)"
    add("--run-as", metavar="EMAIL", help=text)
    text = "folder for artifacts (default: gs://PROJECT-pipeline/NAME)"
    add("--pipeline-root", metavar="gs://…", help=text)
    add("--wait", action="store_true", help="wait until the pipeline ends, and print each step")
    text = 'create a schedule instead, such as "TZ=Europe/Berlin 0 3 * * 1"'
    add("--cron", metavar="CRON", help=text)
    text = "list the schedules created by submit --cron"
    add_command("schedules", schedules, text, [target], delete=False)
    text = "delete the schedules created by submit --cron"
    add_command("unschedule", schedules, text, [target], delete=True)
    text = "print the steps that created the local archive, with parameters and hashes"
    add_model_option(add_command("lineage", print_lineage, text))
    command = add_command("compile", compile_, "compile the pipeline to a YAML file")
    text = "file to write (default: pipeline/pipeline.yaml)"
    command.add_argument("--out", type=Path, default=COMPILED, metavar="FILE", help=text)
    return parser


def _check_quotes(options: str) -> str:
    try:
        shlex.split(options)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).lower()) from None
    return options


def _pipeline_options() -> argparse.ArgumentParser:
    """Return a parser of the options that become parameters of the pipeline."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument_group("training").add_argument
    text = "gs://BUCKET/FOLDER, or a folder, of trained weights to use in place of training"
    add("--weights", metavar="URI", help=text)
    text = "training data, the option --data of the model's train.py (submit: gs://BUCKET/FOLDER)"
    add("--data", metavar="FOLDER", help=text)
    text = "options of the model's train.py, such as '--epochs 2 --seed 1'"
    add("--train", dest="train_options", type=_check_quotes, metavar="OPTIONS", help=text)
    add("--no-cache", action="store_true", help="run every step, without cached results")
    add = parser.add_argument_group("evaluation").add_argument
    text = (
        "serving model to compare with: a URL, an archive, `endpoint` or `none` "
        "(default: the endpoint; without a project the local archive)"
    )
    add("--serving", metavar="MODEL", help=text)
    text = "approximate number of held-out instances to use (default: all)"
    add("--eval-instances", type=int, metavar="N", help=text)
    text = "maximum loss of score against the serving model (default: 0.01)"
    add("--tolerance", type=float, metavar="SCORE", help=text)
    add("--min-score", type=float, metavar="SCORE", help="minimum score (default: 0)")
    add = parser.add_argument_group("canary").add_argument
    add("--traffic", type=int, metavar="PERCENT", help="share of the traffic (default: 10)")
    text = "time to watch the canary, such as 10m; it is rolled back if it exceeds a limit"
    add("--watch", metavar="TIME", help=text)
    text = "maximum share of 5xx among its responses (default: 1%%)"
    add("--max-error-rate", metavar="RATE", help=text)
    text = "maximum p95 latency of its responses, such as 300ms"
    add("--max-p95", metavar="TIME", help=text)
    return parser


if __name__ == "__main__":
    cli.handle_signals()
    main()
