"""The functions of this project: their files, their models and their settings at Google."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "python311"
"""The version of Python that the project is tested with and torch is pinned for."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function and the settings of its deployment."""

    name: str
    """The name of the folder, of the entry point in main.py and of the deployed function."""
    memory: str
    """The memory of an instance, as gcloud writes it."""
    cpu: str = "1"
    concurrency: int
    """Concurrent requests in one instance."""
    timeout_s: int = 60
    max_instances: int = 5
    """Limits what a flood of requests can cost."""
    shared: tuple[str, ...]
    """Files and folders of this repository that main.py imports."""
    excluded: tuple[str, ...] = ()
    """Patterns of files in those folders that are not packaged."""
    model: tuple[str, ...] = ()
    """The model's files, each pinned by its SHA-256; empty for no model."""
    optional: tuple[str, ...] = ()
    """Files of the model that may be missing."""
    model_folder: Path = Path()
    """The folder in which `build_command` creates the model."""
    build_command: str = ""
    sample: str = ""
    """A request body, quoted for a shell; empty: the golden instance of the model."""

    @property
    def folder(self) -> Path:
        """The folder of main.py."""
        return ROOT / "functions" / self.name


COMMON = ("functions/__init__.py", "functions/http.py")
HELLO = Function(
    name="hello",
    memory="512Mi",
    concurrency=16,
    shared=COMMON,
    sample="""'{"message": "Good day to you!"}'""",
)
KNN = Function(
    name="knn",
    memory="512Mi",
    concurrency=8,
    shared=(*COMMON, "functions/knn/__init__.py", "functions/knn/iris.py", "storage"),
    model=("knn.skops",),
    model_folder=Path("build/knn"),
    build_command="python -m functions.knn.train",
    sample="""'{"input_data": "5,3,1,0"}'""",
)
DIGITS = Function(
    name="digits",
    memory="2Gi",
    concurrency=4,
    shared=(*COMMON, "storage", "task", "model", "handler"),
    excluded=("model/train*", "model/export*", "handler/vertex_handler.py"),
    model=("weights.safetensors", "model.json", "golden.json"),
    optional=("backend.json",),
    model_folder=Path("build/model"),
    build_command="make model export",
)
FUNCTIONS = {each.name: each for each in (HELLO, KNN, DIGITS)}
