"""Choose the engine for the photographs, and write down what the model says of one of them.

A program of its own, so that this folder is the package `model`, as it is in an archive.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))
spec = importlib.util.spec_from_file_location(
    "model", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
)
assert spec is not None
sys.modules["model"] = importlib.util.module_from_spec(spec)

from engine import measure  # noqa: E402
from model import network, task  # noqa: E402

BATCHES = (1, 4, 8)


def main(weights: Path) -> None:
    """Write engine.json and golden.json."""
    instances = json.loads((weights / "instances.json").read_text())
    (weights / "golden.json").write_text(json.dumps({"instance": instances[0], "expected": {}}))
    (weights / "engine.json").unlink(missing_ok=True)
    loaded = task.load(weights, torch.device("cpu"))
    pixels = torch.stack([loaded.preprocess(one) for one in instances * 2])
    trials = measure.measure(network.drawn(), loaded.normalised(pixels), BATCHES, rounds=5)
    trials.write(weights)
    print(trials.table())
    with torch.inference_mode():
        answer = loaded.postprocess(loaded.inference(pixels[:1])[0], {})
    expected = {"classes": answer["classes"]}
    golden = {"instance": instances[0], "expected": expected}
    (weights / "golden.json").write_text(json.dumps(golden))
    (weights / "instances.json").unlink()


main(Path(sys.argv[1]))
