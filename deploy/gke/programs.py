"""gcloud and kubectl: what of them is missing, and how they are run."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.errors import Stop
from deploy.gke.overlay import WRITTEN

NEEDED = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "kubectl": "gcloud components install kubectl, or your system's package",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin, or the package "
    "google-cloud-cli-gke-gcloud-auth-plugin: kubectl shows who you are with it",
}
KUBECONFIG = WRITTEN / "kubeconfig"
"""Of ours alone: whatever cluster your kubectl looks at, it goes on looking there."""
LIMIT_S = 900


def require() -> None:
    """Raise Stop for the first program that is missing."""
    for program, where in NEEDED.items():
        if shutil.which(program) is None:
            raise Stop(f"{program} is not on this machine", where)


@dataclass(frozen=True)
class Programs:
    """Programs that look at one cluster, each line said before it is run."""

    say: Callable[[str], None]
    dry_run: bool = False

    def change(self, words: Sequence[str], otherwise: Stop) -> None:
        """Run what changes something, its output shown; raise `otherwise` where it fails."""
        if self.dry_run:
            self.say(f"would run {shlex.join(words)}")
            return
        self.say(f"→ {shlex.join(words)}")
        self._run(words, otherwise, shown=True)

    def ask(self, words: Sequence[str], otherwise: Stop) -> str:
        """Run what only looks, and return what it prints; raise `otherwise` where it fails."""
        return self._run(words, otherwise, shown=False)

    def _run(self, words: Sequence[str], otherwise: Stop, *, shown: bool) -> str:
        environ = {**os.environ, "KUBECONFIG": str(KUBECONFIG)}
        try:
            done = subprocess.run(
                words,
                stdout=None if shown else subprocess.PIPE,
                text=True,
                timeout=LIMIT_S,
                check=False,
                env=environ,
            )
        except subprocess.TimeoutExpired:
            raise Stop(
                f"{words[0]} took more than 15 minutes", "run the same command again"
            ) from None
        if done.returncode:
            raise otherwise
        return done.stdout or ""
