"""What each function is made of, what it needs where it runs, and where its model is made."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIME = "python311"
"""The Python that the core is tested with, and that torch is pinned for."""


@dataclass(frozen=True)
class Function:
    """A function, and the settings that it is deployed with."""

    name: str
    """Of the folder, of the entry point in its main.py, and of what is deployed."""
    memory: str
    """What an instance may take, as gcloud writes it; docs/functions.md has the measured need."""
    cpu: str
    concurrency: int
    """Requests at once in one instance."""
    model: tuple[str, ...] = ()
    """The files of its model, each pinned by its SHA-256; () for none."""
    optional: tuple[str, ...] = ()
    """Files that go along where they are."""
    made: Path = Path()
    """The folder that they are made in."""
    make: str = ""
    """The command that makes them."""
    timeout_s: int = 60
    most_instances: int = 5
    """A bound on what a flood of requests can cost."""

    @property
    def folder(self) -> Path:
        """Where its text is."""
        return HERE / self.name


HELLO = Function("hello", memory="512Mi", cpu="1", concurrency=16)
KNN = Function(
    "knn",
    memory="512Mi",
    cpu="1",
    concurrency=8,
    model=("knn.skops",),
    made=Path("build/knn"),
    make="python -m functions.knn.train",
)
DIGITS = Function(
    "digits",
    memory="2Gi",
    cpu="1",
    concurrency=4,
    model=("weights.safetensors", "model.json", "golden.json"),
    optional=("engine.json",),
    made=Path("build/model"),
    make="make model export",
)
FUNCTIONS = {each.name: each for each in (HELLO, KNN, DIGITS)}
