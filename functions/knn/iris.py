"""The classifier as a file, and its input as a client sends it. Knows nothing of the web."""

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
"""Of what is in the file: {"version", "scikit-learn", "model"}."""
FEATURES = ("sepal length", "sepal width", "petal length", "petal width")
"""Each in centimetres."""
EXPECTED = 'expected four numbers, as "5,3,1,0" or [5, 3, 1, 0]'
TRUSTED = ["sklearn.metrics._dist_metrics.EuclideanDistance64", "sklearn.neighbors._kd_tree.KDTree"]
"""Types beyond skops's own list that the file may hold. Nothing else in it is ever made."""
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


class ModelFileError(Exception):
    """A file that is not the classifier that this function was made for."""


class InputError(Exception):
    """What the client has to mend."""


def save(model: KNeighborsClassifier, file: Path) -> None:
    """Write a classifier."""
    skops.io.dump({"version": VERSION, "scikit-learn": sklearn.__version__, "model": model}, file)


def load(folder: Path) -> KNeighborsClassifier:
    """Read FOLDER/knn.skops; raise BadModel. No code that it might carry is run."""
    try:
        with warnings.catch_warnings():
            # Said below, in one sentence.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            found = skops.io.load(folder / FILE, trusted=TRUSTED)
    except Exception as error:  # whatever is in the file, it is no model
        raise ModelFileError(f"{FILE} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise ModelFileError(
            f"{FILE} is of version {version}, this function is for version {VERSION}: "
            "python -m functions.knn.train, and upload it"
        )
    if found.get("scikit-learn") != sklearn.__version__:
        raise ModelFileError(
            f"{FILE} was trained with scikit-learn {found.get('scikit-learn')}, this function has "
            f"{sklearn.__version__}: train it again, and upload it"
        )
    model = found.get("model")
    if not isinstance(model, KNeighborsClassifier) or model.n_features_in_ != len(FEATURES):
        raise ModelFileError(f"{FILE} holds no KNeighborsClassifier of {len(FEATURES)} features")
    return model


def measurements(value: Any) -> list[float]:
    """Read four numbers out of "5,3,1,0", or of an array of numbers or decimal strings.

    Raises BadInput with what was expected and what came.
    """
    if not isinstance(value, (str, list)):
        raise InputError(f"{EXPECTED}; got {_kind(value)}")
    if not value or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{EXPECTED}; got an empty {'string' if value == '' else _kind(value)}")
    found = value.split(",") if isinstance(value, str) else value
    if len(found) != len(FEATURES):
        raise InputError(f"{EXPECTED}; got {len(found)}")
    return [_number(name, each) for name, each in zip(FEATURES, found, strict=True)]


def _number(name: str, value: Any) -> float:
    """Return one number; raise BadInput."""
    if isinstance(value, str) and NUMBER.fullmatch(value) is None:
        raise InputError(f"{name}: expected a number; got {ascii(value)[:40]}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{name}: expected a number; got {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name}: expected a finite number")
    return number


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
