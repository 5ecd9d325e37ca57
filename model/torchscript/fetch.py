"""Take the TorchScript file out of the package silero-vad."""

import argparse
from pathlib import Path

from project.wheels import extract_files

PACKAGE = "silero-vad==6.2.3"
SHA256 = "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    files = ["silero_vad/data/silero_vad.jit"]
    extract_files(PACKAGE, SHA256, files, parser.parse_args().out)
