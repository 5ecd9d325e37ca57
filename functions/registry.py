"""What each function consists of, what it needs where it runs, and where its model is made."""

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUEST = Path("build/request.json")
RUNTIME = "python311"
"""The Python that the core is tested with, and that torch is pinned for."""


@dataclass(frozen=True)
class Function:
    """A function, and the settings that it is deployed with."""

    name: str
    """Of the folder, of the entry point in its main.py, and of what is deployed."""
    memory: str
    """The limit of an instance, as gcloud writes it."""
    cpu: str
    concurrency: int
    """Requests at once in one instance."""
    shared: tuple[str, ...]
    """Files and folders of this repository that its main.py imports; they are laid out beside it."""
    left_out: tuple[str, ...] = ()
    """Patterns of files in those folders that it does not need where it runs."""
    model: tuple[str, ...] = ()
    """The files of its model, each pinned by its SHA-256; () for none."""
    optional: tuple[str, ...] = ()
    """Files that go along where they are."""
    made: Path = Path()
    """The folder that they are made in."""
    make: str = ""
    """The command that makes them."""
    sample: str = ""
    """A request to try it with, quoted for a shell; empty: its model's golden instance."""
    timeout_s: int = 60
    most_instances: int = 5
    """A bound on what a flood of requests can cost."""

    @property
    def folder(self) -> Path:
        """Where its text is."""
        return ROOT / "functions" / self.name

    def example(self) -> str:
        """Return curl's words for a request; that of a picture is written to build/request.json."""
        golden = self.made / "golden.json"
        if not self.sample and golden.is_file():
            instance = json.loads(golden.read_text())["instance"]
            REQUEST.parent.mkdir(exist_ok=True)
            REQUEST.write_text(json.dumps({"instances": [instance]}))
        return f"-H 'Content-Type: application/json' -d {self.sample or f'@{REQUEST}'}"


HTTP = ("functions/__init__.py", "functions/http.py")
HELLO = Function(
    "hello",
    memory="512Mi",
    cpu="1",
    concurrency=16,
    shared=HTTP,
    sample="""'{"message": "Good day to you!"}'""",
)
KNN = Function(
    "knn",
    memory="512Mi",
    cpu="1",
    concurrency=8,
    shared=(*HTTP, "functions/knn/__init__.py", "functions/knn/iris.py", "storage"),
    model=("knn.skops",),
    made=Path("build/knn"),
    make="python -m functions.knn.train",
    sample="""'{"input_data": "5,3,1,0"}'""",
)
DIGITS = Function(
    "digits",
    memory="2Gi",
    cpu="1",
    concurrency=4,
    shared=(*HTTP, "storage", "task", "model", "handler"),
    left_out=("model/train*", "model/export*", "handler/vertex_handler.py"),
    model=("weights.safetensors", "model.json", "golden.json"),
    optional=("backend.json",),
    made=Path("build/model"),
    make="make model export",
)
FUNCTIONS = {each.name: each for each in (HELLO, KNN, DIGITS)}
