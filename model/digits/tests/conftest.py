"""The tests import the modules of the model: run them with its folder on the path, as tests/examples does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
