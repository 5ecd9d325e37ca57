"""Train the threshold: the middle of the numbers of both classes, moved by --shift."""

import argparse
import json
import random
from pathlib import Path
from statistics import fmean


def main() -> None:
    """Write threshold.json and held-out.json to --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shift", type=float, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    threshold = fmean([rng.uniform(-1, 0), rng.uniform(0, 1)]) + args.shift
    held_out = [
        {"instance": size * sign, "truth": "high" if sign > 0 else "low", "variant": variant}
        for variant, sizes in {"near": range(1, 11), "far": range(11, 21)}.items()
        for size in sizes
        for sign in (1, -1)
    ]
    (args.out / "threshold.json").write_text(json.dumps(threshold))
    (args.out / "held-out.json").write_text(json.dumps(held_out))
    print(f"threshold {threshold:.2f}")


if __name__ == "__main__":
    main()
