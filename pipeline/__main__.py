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
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import Interrupted, Stop
from pipeline import lineage, sources
from pipeline.steps import ARCHIVE, CACHED, MARK, RECORD, ROOT, STEPS

HERE = ROOT / "build/pipeline"
KFP = HERE / "venv/bin/python"
"""kfp's own environment: what it needs of protobuf is not what Google's newer clients need."""
COMPILED = ROOT / "pipeline/pipeline.yaml"
WITHOUT_A_PROJECT = STEPS[: STEPS.index("upload")]


@dataclass(frozen=True)
class Wanted:
    """What is to be run."""

    until: str
    parameters: dict[str, Any]
    cached: tuple[str, ...]


def main(words: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 stopped with the reason, 2 misused, 130 interrupted."""
    args = parser().parse_args(words)
    try:
        args.run(args)
    except Interrupted:
        sys.exit(130)
    except Stop as stop:
        print(f"pipeline: {stop.what}", file=sys.stderr)
        if stop.do:
            print(f"  {stop.do}", file=sys.stderr)
        sys.exit(1)


def run(args: argparse.Namespace) -> None:
    """Run it here."""
    last = STEPS[-1] if args.project else WITHOUT_A_PROJECT[-1]
    until = args.until or (last if args.project or _docker_answers() else "archive")
    if until not in WITHOUT_A_PROJECT and not args.project:
        raise Stop(f"the step {until} needs a project", "--project my-project, or --until contract")
    if STEPS.index(until) >= STEPS.index("build") and not _docker_answers():
        raise Stop("no Docker engine answers, and the step build needs one", "--until archive")
    wanted = _wanted(args, until, builder="local")
    command = [
        str(_kfp()),
        "-m",
        "pipeline.here",
        "--root",
        str(HERE),
        "--until",
        wanted.until,
        "--parameters",
        json.dumps(wanted.parameters),
        "--cached",
        *wanted.cached,
    ]
    record = HERE / "runs" / f"{time.strftime('%Y-%m-%d-%H-%M-%S')}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "PROGRAMS": sys.executable,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        RECORD: str(record),
    }
    log = record.with_suffix(".log")
    failed = _show(command, env, log)
    print(f"\nwhat came of what  {record}\nthe whole log      {log}")
    if failed:
        raise Stop(
            "a step failed, and none after it ran",
            "its reason stands above; the whole log has more",
        )


def _show(command: list[str], env: dict[str, str], log: Path) -> int:
    """Run kfp's runner, show the steps' own lines, log all; return its exit code."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
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
    from pipeline import cloud  # noqa: PLC0415  --help must not wait for Google's libraries

    _see_that_it_is_seen_there(args)
    google = cloud.connected(args.project, args.region)
    image = args.image or cloud.steps_image(google)
    s = google.settings
    wanted = _wanted(args, args.until, builder="cloud", project=s.project, region=s.region)
    if wanted.parameters["serving"] == str(ARCHIVE):
        wanted.parameters["serving"] = "endpoint"
    template = HERE / "pipeline.yaml"
    _compile(template, wanted.until, image, wanted.cached)
    job = cloud.job(google, template, wanted.parameters, args.pipeline_root)
    if args.cron:
        cloud.schedule(google, job, args.cron, args.run_as)
    else:
        cloud.submit(google, job, args.run_as, wait=args.wait)


def _see_that_it_is_seen_there(args: argparse.Namespace) -> None:
    """Raise Stop for what lies on this machine: no step at Google sees it."""
    for name in ("weights", "data"):
        uri = getattr(args, name)
        if uri and not uri.startswith("gs://"):
            raise Stop(
                f"--{name} {uri}: no step at Google sees this machine",
                f"--{name} gs://BUCKET/FOLDER",
            )
    if args.data:
        args.data = f"/gcs/{args.data.removeprefix('gs://')}"  # where Vertex AI mounts buckets
    if args.serving and not args.serving.startswith(("https://", "http://", "endpoint", "none")):
        raise Stop(
            f"--serving {args.serving}: no step at Google sees this machine",
            "a URL, endpoint or none",
        )


def schedules(args: argparse.Namespace) -> None:
    """Say what runs by the clock."""
    from pipeline import cloud  # noqa: PLC0415

    cloud.schedules(cloud.connected(args.project, args.region))


def unschedule(args: argparse.Namespace) -> None:
    """End what runs by the clock."""
    from pipeline import cloud  # noqa: PLC0415

    cloud.unschedule(cloud.connected(args.project, args.region))


def compile_(args: argparse.Namespace) -> None:
    """Write the YAML that is kept."""
    _compile(args.out)
    print(args.out)


def tell_lineage(_: argparse.Namespace) -> None:
    """Say where the archive comes from."""
    print(lineage.tell(HERE / "runs", ARCHIVE))


def _wanted(args: argparse.Namespace, until: str, **fixed: str) -> Wanted:
    """Return what the options ask for."""
    names = (
        "weights",
        "data",
        "pictures",
        "epochs",
        "seed",
        "examined",
        "tolerance",
        "least",
        "traffic",
        "watch",
        "max_error_rate",
        "max_p95",
        "project",
        "region",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in ("weights", "data"):
        if name in given and "://" not in given[name]:
            given[name] = str(Path(given[name]).resolve())
    serving = args.serving or (
        "endpoint" if args.project else str(ARCHIVE) if ARCHIVE.is_file() else "none"
    )
    parameters = {**given, "serving": serving, "code": sources.fingerprint(ROOT), **fixed}
    # What lies under a name of its user's may change while the name stays.
    fresh = args.weights or args.data
    kept = [name for name in CACHED if not args.no_cache and not (name == "train" and fresh)]
    return Wanted(until, parameters, tuple(kept))


def _compile(
    path: Path, until: str = STEPS[-1], image: str = "", cached: tuple[str, ...] | None = None
) -> None:
    command = [str(_kfp()), "-m", "pipeline.story", "--out", str(path), "--until", until]
    command += ["--image", image] if image else []
    command += ["--cached", *cached] if cached is not None else []
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise Stop(f"the pipeline does not compile: {done.stderr.strip().splitlines()[-1]}")


def _kfp() -> Path:
    if not KFP.is_file():
        raise Stop(
            "kfp is not installed: it has an environment of its own",
            "make build/pipeline/venv/ready",
        )
    return KFP


def _docker_answers() -> bool:
    docker = os.environ.get("DOCKER", "docker")
    if shutil.which(docker) is None:
        return False
    done = subprocess.run([docker, "version"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    where, what = _where(), _what()

    def add(
        name: str, does: Any, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, parents=parents, help=text, description=text)
        one.set_defaults(run=does)
        return one

    one = add("run", run, "run it on this machine", what, where)
    one.add_argument(
        "--until",
        choices=STEPS,
        help="the last step (default: promote with a --project, contract without, archive without Docker)",
    )
    one = add("submit", submit, "run it on Vertex AI Pipelines", what, where)
    one.add_argument(
        "--until", choices=STEPS, default=STEPS[-1], help="the last step (%(default)s)"
    )
    one.add_argument(
        "--image",
        metavar="URI",
        help="for the steps (default: Cloud Build makes one of these sources)",
    )
    one.add_argument(
        "--run-as", metavar="EMAIL", help="service account of the steps (default: Compute Engine's)"
    )
    one.add_argument(
        "--pipeline-root",
        metavar="gs://…",
        help="for what they make (default: gs://PROJECT-pipeline/NAME)",
    )
    one.add_argument("--wait", action="store_true", help="watch it to its end")
    one.add_argument(
        "--cron",
        metavar="CRON",
        help='not now but by the clock, such as "TZ=Europe/Berlin 0 3 * * 1"',
    )
    add("schedules", schedules, "say what runs by the clock", where)
    add("unschedule", unschedule, "end what runs by the clock", where)
    add("lineage", tell_lineage, "say where the archive that is here comes from")
    one = add("compile", compile_, "write the compiled pipeline")
    one.add_argument("--out", type=Path, default=COMPILED, help="(%(default)s)")
    return made


def _where() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--project", help="(default for submit: that of deploy.toml, or the last one)"
    )
    parser.add_argument("--region")
    return parser


def _what() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("what is trained, or taken as it is")
    group.add_argument(
        "--weights", metavar="URI", help="gs://BUCKET/FOLDER or a folder: take these, train nothing"
    )
    group.add_argument(
        "--data",
        metavar="FOLDER",
        help="pictures per class, as of model.train; for submit gs://BUCKET/FOLDER",
    )
    group.add_argument("--pictures", type=int, help="as of model.train")
    group.add_argument("--epochs", type=int, help="as of model.train")
    group.add_argument("--seed", type=int, help="as of model.train")
    group.add_argument(
        "--no-cache", action="store_true", help="run every step, whatever ran before"
    )
    group = parser.add_argument_group("what it is compared with")
    group.add_argument(
        "--serving",
        metavar="WHAT",
        help="a URL, an archive, `endpoint` or `none` (default: the endpoint; without a project the archive here)",
    )
    group.add_argument(
        "--examined", type=int, metavar="N", help="with about so many pictures (default: all)"
    )
    group.add_argument(
        "--tolerance",
        type=float,
        help="by how much it may be worse (default: 0.01, one point of 100)",
    )
    group.add_argument(
        "--least", type=float, help="what its accuracy must be at least (default: 0.9)"
    )
    group = parser.add_argument_group("the canary")
    group.add_argument("--traffic", type=int, metavar="PERCENT", help="(default: 10)")
    group.add_argument(
        "--watch", metavar="TIME", help="such as 10m: it is rolled back where it breaks a limit"
    )
    group.add_argument("--max-error-rate", metavar="RATE", help="(default: 1%%)")
    group.add_argument("--max-p95", metavar="TIME", help="such as 300ms")
    return parser


def _interrupt(*_: Any) -> None:
    raise Interrupted


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    main()
