"""From data, or trained weights in a bucket, to an endpoint: python -m pipeline run, or submit.

  run          on this machine, by kfp's local runner; without --project up to the contract suite
  submit       on Vertex AI Pipelines; with --cron, again and again
  schedules    what was submitted with --cron, and unschedule ends it
  lineage      where the archive that is here comes from
  compile      write pipeline/pipeline.yaml anew

The steps, in their order: train, evaluate, gate, export, archive, build, contract, upload, canary, promote.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from contract.docker import Docker
from deploy import cli
from deploy.errors import UserError
from deploy.fingerprint import fingerprint
from pipeline import lineage
from pipeline.steps import ARCHIVE, CACHED, MARK, RECORD, ROOT, STEPS

HERE = ROOT / "build/pipeline"
KFP = HERE / "venv/bin/python"
"""kfp's own environment: what it needs of protobuf is not what Google's newer clients need."""
COMPILED = ROOT / "pipeline/pipeline.yaml"
WITHOUT_A_PROJECT = STEPS[: STEPS.index("upload")]
TRAINING = ("model", "task", "requirements/torch.lock", "requirements/dev.lock")
"""What a cached training depends on."""


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = parser().parse_args(words)
    cli.run("pipeline", lambda: args.run(args))


def run(args: argparse.Namespace) -> None:
    """Run it here."""
    docker = Docker(os.environ.get("DOCKER", "docker")).is_available()
    last = STEPS[-1] if args.project else WITHOUT_A_PROJECT[-1]
    until = args.until or (last if args.project or docker else "archive")
    if until not in WITHOUT_A_PROJECT and not args.project:
        raise UserError(
            f"the step {until} needs a project", "--project my-project, or --until contract"
        )
    if STEPS.index(until) >= STEPS.index("build") and not docker:
        raise UserError("no Docker engine answers, and the step build needs one", "--until archive")
    parameters = json.dumps(_parameters(args, builder="local"))
    command = [str(_kfp()), "-m", "pipeline.local_runner", "--root", str(HERE), "--until", until]
    command += ["--parameters", parameters, "--cached", *_cached(args)]
    record = HERE / "runs" / f"{time.strftime('%Y-%m-%d-%H-%M-%S')}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    log = record.with_suffix(".log")
    failed = _show(command, {"PROGRAMS": sys.executable, RECORD: str(record)}, log)
    print(f"\nwhat came of what  {record}\nthe whole log      {log}")
    if failed:
        raise UserError(
            "a step failed, and none after it ran",
            "its reason stands above; the whole log has more",
        )


def _show(command: list[str], environ: dict[str, str], log: Path) -> int:
    """Run kfp's runner, show the steps' own lines, log all; return its exit code."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environ},
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
            _, mark, own = line.partition(MARK)
            if mark:
                print(own, end="", flush=True)
    return process.returncode


def submit(args: argparse.Namespace) -> None:
    """Have Vertex AI run it, now or by the clock."""
    from pipeline import vertex_runner  # noqa: PLC0415  --help must not wait for Google's libraries

    _see_that_it_is_seen_there(args)
    google = vertex_runner.connected(args.project, args.region)
    args.project, args.region = google.settings.project, google.settings.region
    args.serving = args.serving or "endpoint"
    template = HERE / "pipeline.yaml"
    _compile(template, args.until, args.image or vertex_runner.steps_image(google), _cached(args))
    job = vertex_runner.job(
        google, template, _parameters(args, builder="cloud"), args.pipeline_root
    )
    if args.cron:
        vertex_runner.schedule(google, job, args.cron, args.run_as)
    else:
        vertex_runner.submit(google, job, args.run_as, wait=args.wait)


def _see_that_it_is_seen_there(args: argparse.Namespace) -> None:
    """Raise Stop for what lies on this machine: no step at Google sees it."""
    for name, good, instead in (
        ("weights", "gs://", "--weights gs://BUCKET/FOLDER"),
        ("data", "gs://", "--data gs://BUCKET/FOLDER"),
        ("serving", ("https://", "http://", "endpoint", "none"), "a URL, endpoint or none"),
    ):
        value = getattr(args, name)
        if value and not value.startswith(good):
            raise UserError(f"--{name} {value}: no step at Google sees this machine", instead)
    if args.data:
        args.data = f"/gcs/{args.data.removeprefix('gs://')}"  # where Vertex AI mounts buckets


def schedules(args: argparse.Namespace) -> None:
    """Say what runs by the clock, or end it."""
    from pipeline import vertex_runner  # noqa: PLC0415

    vertex_runner.schedules(vertex_runner.connected(args.project, args.region), end=args.end)


def compile_(args: argparse.Namespace) -> None:
    """Write the YAML that is kept."""
    _compile(args.out)
    print(args.out)


def _parameters(args: argparse.Namespace, builder: str) -> dict[str, Any]:
    """Return the pipeline's parameters that the options ask for."""
    names = {*vars(_what().parse_args([])), "project", "region"} - {"no_cache"}
    given = {name: value for name, value in vars(args).items() if name in names}
    for name in ("weights", "data"):
        if given[name] and "://" not in given[name]:
            given[name] = str(Path(given[name]).resolve())
    if not given["serving"]:
        here = str(ARCHIVE) if ARCHIVE.is_file() else "none"
        given["serving"] = "endpoint" if args.project else here
    given |= {"code": fingerprint(ROOT, TRAINING), "builder": builder}
    return {name: value for name, value in given.items() if value is not None}


def _cached(args: argparse.Namespace) -> list[str]:
    """Return the steps that need not run again where nothing changed."""
    # What lies under a name of its user's may change while the name stays.
    fresh = args.weights or args.data
    return [name for name in CACHED if not args.no_cache and not (name == "train" and fresh)]


def _compile(
    path: Path, until: str = STEPS[-1], image: str = "", cached: Collection[str] = CACHED
) -> None:
    command = [str(_kfp()), "-m", "pipeline.definition", "--out", str(path), "--until", until]
    command += [*(["--image", image] if image else []), "--cached", *cached]
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise UserError(f"the pipeline does not compile: {done.stderr.strip().splitlines()[-1]}")


def _kfp() -> Path:
    if not KFP.is_file():
        raise UserError(
            "kfp is not installed: it has an environment of its own",
            "make build/pipeline/venv/ready",
        )
    return KFP


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        prog="python -m pipeline", description=__doc__, formatter_class=formatter
    )
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, does: Any, text: str, parents: Any = (), **fixed: Any
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, parents=parents)
        one.set_defaults(run=does, **fixed)
        return one

    where = argparse.ArgumentParser(add_help=False)
    default = "(default: for run none; else that of deploy.toml, or the last one)"
    where.add_argument("--project", help=default)
    where.add_argument("--region")
    one = command("run", run, "run it on this machine", [_what(), where])
    until = (
        "the last step (default: promote with --project, contract without, archive without Docker)"
    )
    one.add_argument("--until", choices=STEPS, help=until)
    add = command("submit", submit, "run it on Vertex AI Pipelines", [_what(), where]).add_argument
    add("--until", choices=STEPS, default=STEPS[-1], help="the last step (%(default)s)")
    add(
        "--image",
        metavar="URI",
        help="for the steps (default: Cloud Build makes one of what is here)",
    )
    add("--run-as", metavar="EMAIL", help="account of the steps (default: Compute Engine's)")
    add("--pipeline-root", metavar="gs://…", help="(default: gs://PROJECT-pipeline/NAME)")
    add("--wait", action="store_true", help="watch it to its end")
    cron = 'not now but by the clock, such as "TZ=Europe/Berlin 0 3 * * 1"'
    add("--cron", metavar="CRON", help=cron)
    command("schedules", schedules, "say what runs by the clock", [where], end=False)
    command("unschedule", schedules, "end what runs by the clock", [where], end=True)
    lineage_ = "say where the archive that is here comes from"
    command("lineage", lambda _: print(lineage.tell(HERE / "runs", ARCHIVE)), lineage_)
    one = command("compile", compile_, "write the compiled pipeline")
    one.add_argument("--out", type=Path, default=COMPILED, help="(%(default)s)")
    return made


def _what() -> argparse.ArgumentParser:
    """Return the options that become parameters of the pipeline."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument_group("what is trained, or taken as it is").add_argument
    add(
        "--weights", metavar="URI", help="gs://BUCKET/FOLDER or a folder: take these, train nothing"
    )
    add("--data", metavar="FOLDER", help="pictures per class, as of model.train; gs://… for submit")
    for name in ("--pictures", "--epochs", "--seed"):
        add(name, type=int, help="as of model.train")
    add("--no-cache", action="store_true", help="run every step, whatever ran before")
    add = parser.add_argument_group("what it is compared with").add_argument
    what = "a URL, an archive, `endpoint` or `none` (default: the endpoint; without a project the archive here)"
    add("--serving", metavar="WHAT", help=what)
    add("--examined", type=int, metavar="N", help="with about so many pictures (default: all)")
    add(
        "--tolerance",
        type=float,
        help="by how much it may be worse (default: 0.01: a point of 100)",
    )
    add("--least", type=float, help="what its accuracy must be at least (default: 0.9)")
    add = parser.add_argument_group("the canary").add_argument
    add("--traffic", type=int, metavar="PERCENT", help="(default: 10)")
    add("--watch", metavar="TIME", help="such as 10m: it is rolled back where it breaks a limit")
    add("--max-error-rate", metavar="RATE", help="(default: 1%%)")
    add("--max-p95", metavar="TIME", help="such as 300ms")
    return parser


if __name__ == "__main__":
    cli.handle_signals()
    main()
