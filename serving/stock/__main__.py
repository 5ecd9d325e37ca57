"""Say what in a stock .mar will work in this project's image, what will not, and why.

First its files are read; then it is served by a real TorchServe on this machine, and asked a
request if there is one. The trial runs the archive's code: try only what you trust.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import storage
from serving import artifact, local, probe, torchserve
from serving.errors import ArchiveError
from serving.stock import inspect
from serving.stock.inspect import Finding

WORDS = {True: "works   ", False: "WILL NOT", None: "look    "}


def main() -> None:
    """Run the command line; exit with 1 where something will not work."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.stock",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, help="the .mar")
    parser.add_argument("--request", type=Path, help="a file with a request, to see it answered")
    parser.add_argument("--no-trial", action="store_true", help="read the files only")
    args = parser.parse_args()
    try:
        contents = inspect.read_archive(args.archive)
        found = list(inspect.inspect_archive(contents))
        print(f"{args.archive}: {contents.manifest.name}, {len(contents.names)} files\n")
        for finding in found:
            _tell(finding)
        if not args.no_trial:
            found.append(_trial(args.archive, args.request))
            _tell(found[-1])
    except ArchiveError as error:
        sys.exit(f"migrate: {error}")
    bad = sum(finding.works is False for finding in found)
    if bad:
        sys.exit(f"\n{bad} of {len(found)} will not work as they are")
    folder = args.archive.resolve().parent
    print(
        "\nThe same bucket and the same requests work with this image: upload the model with it "
        "and the artifact URI that it has now.\nHere: make run STORAGE="
        f"{folder}, or without Docker: make serve STORAGE={folder}"
    )


def _tell(finding: Finding) -> None:
    print(f"{WORDS[finding.works]}  {finding.what}")
    if finding.to_do:
        print(f"          -> {finding.to_do}")


def _trial(archive: Path, request: Path | None) -> Finding:
    """Serve the archive and ask it the request."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        run, log = Path(folder), Path(folder) / "trial.log"
        alone = run / "only"
        alone.mkdir()
        (alone / "model.mar").symlink_to(archive.resolve())
        print("          (loading it in a TorchServe on this machine)", flush=True)
        began = time.monotonic()
        try:
            served = artifact.fetch(storage.open_storage(str(alone), print), archive, run / "store")
            address = f"http://127.0.0.1:{torchserve.find_free_port()}"
            with (
                log.open("w") as written,
                local.start_server(served, address, run, lambda line: print(line, file=written)),
            ):
                took = time.monotonic() - began
                if request is None:
                    return Finding(True, f"a worker loads it: ready after {took:.1f} s")
                answer = probe.probe_prediction(
                    address, artifact.MODEL_NAME, request.read_bytes(), 60
                )
        except (*local.FAULTS, OSError) as error:
            return Finding(False, f"it does not load: {error}")
    return Finding(answer.healthy, f"{request} is answered: {answer.detail}")


if __name__ == "__main__":
    main()
