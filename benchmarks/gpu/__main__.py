"""Compare our workers on a GPU with the bare limit and with other servers on the same GPU, in one run.

Our workers get their requests over the socket that nginx connects to: neither Docker nor Java, nginx or wrk is needed,
only Python with torch and Pillow, the Python files of torchserve, and the other servers (fastapi, uvicorn, litserve).
All servers of a workload run at the same time, and are measured in turn; the results are medians of the rounds. They
are written after each number of clients. A server that does not start, or predicts otherwise, is left out.
"""

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.errors import BenchmarkError
from benchmarks.gpu.measurement import measure_workload
from benchmarks.gpu.ratios import PEER_NAMES, format_ratios
from benchmarks.gpu.workloads import MODELS, GpuWorkload
from benchmarks.options import positive_float, positive_int
from benchmarks.results import Row
from benchmarks.workloads import BUILD
from serving.errors import ServingError
from serving.gpu import Gpu, find_gpus, find_torch_cuda
from serving.local import parse_layout

PACKAGES = {
    "": ("ts", "psutil", "yaml"),
    "FastAPI": ("fastapi", "uvicorn", "uvloop", "httptools", "orjson"),
    "LitServe": ("litserve", "orjson"),
}
"""What our workers, and the other servers, import beside what this program does."""
PATH_VARIABLE = "PYTHONPATH"


def main() -> None:
    """Parse the options, measure, print the tables and write them to build/bench; fail if something was left out."""
    args = _parse_arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    # The processes that are started run in other folders.
    packages = filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))
    os.environ[PATH_VARIABLE] = os.pathsep.join(map(os.path.abspath, packages))
    try:
        gpus = _find_gpu() if args.device == "cuda" else []
        check_packages(args.servers)
    except (BenchmarkError, ServingError) as error:
        sys.exit(f"benchmarks.gpu: {error}")
    device = _describe_device(gpus)
    rows: list[Row] = []
    errors: list[str] = []
    file = None

    def report_error(error: str) -> None:
        print(error, flush=True)
        errors.append(error)

    for name in args.only:
        try:
            workload = GpuWorkload(name, args.device)
            for measured in measure_workload(workload, gpus, args, report_error):
                rows += measured
                file = _write(rows, device, file)
                print(results.format_rows(measured), flush=True)
        except (BenchmarkError, ServingError) as error:
            report_error(f"{name}: {error}")
        except KeyboardInterrupt:
            report_error(f"{name}: interrupted")
            break
    if file is not None:
        print(f"\n{file.with_suffix('.md').read_text()}\n{file}")
    if failures := errors + results.find_failures(rows):
        sys.exit("benchmarks.gpu: missing, or does not count:\n" + "\n".join(failures))


def _interrupt(*_: object) -> None:
    """Stop the servers and print what was measured; `timeout` sends its signal twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _write(rows: list[Row], device: str, old: Path | None) -> Path:
    """Write the results so far as JSON and as tables, in place of earlier files; return the first."""
    document = {"device": device, "rows": [row._asdict() for row in rows]}
    file = results.write_json("gpu", document, BUILD)
    text = f"{device}\n\n{format_ratios(rows)}\n\n{results.format_rows(rows)}\n"
    file.with_suffix(".md").write_text(text)
    if old not in (None, file):
        old.unlink()
        old.with_suffix(".md").unlink()
    return file


def check_packages(servers: Sequence[str]) -> None:
    """Raise BenchmarkError if a package is missing that our workers, or the other servers, import."""
    needed = dict.fromkeys(name for server in ("", *servers) for name in PACKAGES.get(server, ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise BenchmarkError(
            f"{sys.executable} does not find {', '.join(missing)}: run make gpu-packages where there is a network, and "
            "set PYTHONPATH=build/bench/gpu-packages here"
        )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = f"of {', '.join(MODELS)}, separated by commas (default: %(default)s)"
    add("--only", default="RESNET50,MINILM", metavar="WORKLOADS", type=_list_of(MODELS), help=text)
    add("--device", choices=["cuda", "cpu"], default="cuda", help="(default: %(default)s)")
    text = "of FastAPI and LitServe, separated by commas; none: without other servers (default: %(default)s)"
    known = (*PEER_NAMES, "none")
    add("--servers", default=",".join(PEER_NAMES), metavar="NAMES", type=_list_of(known), help=text)
    text = "the layout of our workers, such as 2x8,32,0 (default: that of the container)"
    add("--layout", type=parse_layout, metavar="WORKERSxTHREADS[,BATCH[,DELAY_MS]]", help=text)
    text = "numbers of clients, separated by commas (default: %(default)s)"
    add("--clients", default="1,8,32,128", type=_list_of_numbers, help=text)
    add("--rounds", type=positive_int, default=3, help="(default: %(default)s)")
    text = "time of a round (default: %(default)s)"
    add("--seconds", type=positive_float, default=2, help=text)
    return parser.parse_args()


def _list_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        values = text.split(",")
        if unknown := [each for each in values if each not in known]:
            expected = ", ".join(known)
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected {expected}")
        return values

    return parse


def _list_of_numbers(text: str) -> list[int]:
    return [positive_int(each) for each in text.split(",")]


def _find_gpu() -> list[Gpu]:
    """Return the first GPU; raise BenchmarkError or NoGpuError."""
    torch_cuda = find_torch_cuda()
    if torch_cuda is None:
        raise BenchmarkError(
            f"torch {torch.__version__} is built for CPUs: use a torch for GPUs, or measure with --device cpu"
        )
    gpus, description = find_gpus(os.environ, torch_cuda)
    print(description, flush=True)
    return gpus[:1]


def _describe_device(gpus: Sequence[Gpu]) -> str:
    """Return the GPU, the processor, and the versions of torch and CUDA."""
    cuda = f", CUDA {torch.version.cuda}" if gpus else ""
    devices = "; ".join([*map(str, gpus), results.describe_cpu()])
    return f"{devices}; torch {torch.__version__}{cuda}"


if __name__ == "__main__":
    main()
