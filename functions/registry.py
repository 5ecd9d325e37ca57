"""The functions of this project: their files, their models and their settings at Google."""

from dataclasses import dataclass
from pathlib import Path

from project.model_folder import Model

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "python311"
"""The version of Python that the project is tested with and torch is pinned for."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function and the settings of its deployment."""

    name: str
    """The name of the deployed function."""
    folder: Path
    """The folder of main.py and requirements.txt."""
    entry_point: str
    """The Python function in main.py that serves."""
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
    """Files in those folders that are not packaged."""
    files: tuple[str, ...] = ()
    """The model's files in the bucket, each pinned by its SHA-256; empty for no model."""
    files_folder: Path = Path()
    """The folder with those files on this machine, which `build_command` creates."""
    build_command: str = ""
    request: str
    """A request body to try the function with, quoted for a shell; or @FILE."""
    model: Model | None = None
    """The model whose archive has the function's code and files."""

    @property
    def curl_options(self) -> str:
        """The options of curl for a request to try the function with."""
        return f"-H 'Content-Type: application/json' -d {self.request}"


COMMON = ("functions/__init__.py", "functions/http.py")
HELLO = Function(
    name="hello",
    folder=ROOT / "functions" / "hello",
    entry_point="hello",
    memory="512Mi",
    concurrency=16,
    shared=COMMON,
    request="""'{"message": "Good day to you!"}'""",
)
KNN = Function(
    name="knn",
    folder=ROOT / "functions" / "knn",
    entry_point="knn",
    memory="512Mi",
    concurrency=8,
    shared=(*COMMON, "functions/knn/__init__.py", "functions/knn/iris.py", "storage"),
    files=("knn.skops",),
    files_folder=Path("build/knn"),
    build_command="python -m functions.knn.train",
    request="""'{"input_data": "5,3,1,0"}'""",
)
FUNCTIONS = {each.name: each for each in (HELLO, KNN)}
"""The functions that are not those of a model."""
