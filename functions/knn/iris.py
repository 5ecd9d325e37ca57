"""Read and write the classifier's file, and parse its input; independent of HTTP."""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import sklearn
import skops.io
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.neighbors import KNeighborsClassifier

FILE = "knn.skops"
VERSION = 1
"""The version of the file's content: {"version", "scikit-learn", "model"}."""
FEATURES = ("sepal length", "sepal width", "petal length", "petal width")
"""In centimetres."""
EXPECTED = 'expected four numbers, as "5,3,1,0" or [5, 3, 1, 0]'
TRUSTED = ["sklearn.metrics._dist_metrics.EuclideanDistance64", "sklearn.neighbors._kd_tree.KDTree"]
"""Types beyond skops's own list that may be created from the file."""
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


class ModelFileError(Exception):
    """The file is not a classifier for this version of the function."""


class InputError(Exception):
    """The input is invalid. The client gets the text."""


def save(model: KNeighborsClassifier, file: Path) -> None:
    """Write a classifier to a file."""
    skops.io.dump({"version": VERSION, "scikit-learn": sklearn.__version__, "model": model}, file)


def load(folder: Path) -> KNeighborsClassifier:
    """Read FOLDER/knn.skops without executing code from it; raise ModelFileError."""
    try:
        with warnings.catch_warnings():
            # The version is checked below.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            content = skops.io.load(folder / FILE, trusted=TRUSTED)
    except Exception as error:  # skops may raise anything for a file that is not a model
        raise ModelFileError(f"{FILE} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ModelFileError(
            f"{FILE} has version {version}, expected {VERSION}: run python -m functions.knn.train, and upload the file"
        )
    if content.get("scikit-learn") != sklearn.__version__:
        raise ModelFileError(
            f"{FILE} was trained with scikit-learn {content.get('scikit-learn')}, expected "
            f"{sklearn.__version__}: train and upload it again"
        )
    model = content.get("model")
    if not isinstance(model, KNeighborsClassifier) or model.n_features_in_ != len(FEATURES):
        raise ModelFileError(f"{FILE} has no KNeighborsClassifier of {len(FEATURES)} features")
    return model


def parse_measurements(value: Any) -> list[float]:
    """Return the four numbers in "5,3,1,0", or in an array of numbers or decimal strings.

    Raises InputError.
    """
    if not isinstance(value, (str, list)):
        raise InputError(f"{EXPECTED}; got {_json_type(value)}")
    if not value or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{EXPECTED}; got an empty {_json_type(value)}")
    items = value.split(",") if isinstance(value, str) else value
    if len(items) != len(FEATURES):
        raise InputError(f"{EXPECTED}; got {len(items)}")
    return [_parse_number(name, item) for name, item in zip(FEATURES, items, strict=True)]


def _parse_number(name: str, value: Any) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value) is None:
        raise InputError(f"{name}: expected a number; got {ascii(value)[:40]}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{name}: expected a number; got {_json_type(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name}: expected a finite number")
    return number


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
