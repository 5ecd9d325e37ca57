"""Report which parts of a stock .mar will work in this project's image, which will not, and why.

The archive's files are inspected first. Then a TorchServe on this machine serves it and answers
a request, if one is given. That runs the archive's code: use it only with archives you trust.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import storage
from serving import artifact, local, probe, torchserve
from serving.errors import ArchiveError
from serving.stock import inspect
from serving.stock.inspect import Finding

STATES = {True: "works ", False: "FAILS ", None: "check "}


def main() -> None:
    """Print the findings; exit with 1 if something will not work."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.stock",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("archive", type=Path, help="the .mar")
    add("--request", type=Path, help="a file with the body of a request to send")
    add("--no-trial", action="store_true", help="only inspect the files")
    args = parser.parse_args()
    if args.request and not args.request.is_file():
        sys.exit(f"serving.stock: --request (REQUEST): {args.request} does not exist")
    try:
        contents = inspect.read_archive(args.archive)
        findings = list(inspect.inspect_archive(contents))
        print(f"{args.archive}: model {contents.manifest.name}, {len(contents.names)} files\n")
        for finding in findings:
            _print(finding)
        if not args.no_trial:
            findings.append(_serve_once(args.archive, args.request))
            _print(findings[-1])
    except ArchiveError as error:
        sys.exit(f"serving.stock: {error}")
    failing = sum(finding.works is False for finding in findings)
    if failing:
        sys.exit(
            f"\n{failing} of {len(findings)} findings need a change to the archive or the image"
        )
    folder = shlex.quote(str(args.archive.resolve().parent))
    print(
        "\nThe archive works with this image: upload the model with it and with its "
        "current artifact URI.\nOn this machine: make run STORAGE="
        f"{folder}, or without Docker: make serve STORAGE={folder}\n"
        f"To put it into an image, without a bucket: {contents.build_command}"
    )


def _print(finding: Finding) -> None:
    print(f"{STATES[finding.works]}  {finding.description}")
    if finding.hint:
        print(f"        -> {finding.hint}")


def _serve_once(archive: Path, request: Path | None) -> Finding:
    """Serve the archive and send it the request."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        run_dir, log = Path(folder), Path(folder) / "trial.log"
        source = run_dir / "source"  # a folder with this archive only
        source.mkdir()
        (source / "model.mar").symlink_to(archive.resolve())
        print("        (starting TorchServe on this machine)", flush=True)
        started = time.monotonic()
        address = f"http://127.0.0.1:{torchserve.find_free_port()}"
        try:
            files = storage.open_storage(str(source), print)
            served = artifact.fetch(files, archive, run_dir / "store")
            config = local.configure(served, address, run_dir)
            with (
                log.open("w") as file,
                local.start_server(config, served.golden_request, lambda s: print(s, file=file)),
            ):
                startup_s = time.monotonic() - started
                if request is None:
                    return Finding(True, f"a worker loads it: ready after {startup_s:.1f} s")
                body = request.read_bytes()
                result = probe.probe_prediction(address, artifact.MODEL_NAME, body, 60)
        except (*local.ERRORS, OSError) as error:
            return Finding(False, f"it does not load: {error}")
    return Finding(result.healthy, f"{request}: the response is {result.detail}")


if __name__ == "__main__":
    main()
