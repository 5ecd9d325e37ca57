"""Programs of this machine: gcloud, docker, kubectl."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.errors import UserError

INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "docker": "https://docs.docker.com/engine/install",
    "kubectl": "gcloud components install kubectl, or your system's package",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin, or the package "
    "google-cloud-cli-gke-gcloud-auth-plugin: kubectl shows who you are with it",
}


def require(*programs: str) -> None:
    """Raise Stop for the first program that is missing."""
    for program in programs:
        if shutil.which(program) is None:
            where = INSTALL.get(program, f"install {program}")
            raise UserError(f"{program} is not on this machine", where)


@dataclass(frozen=True)
class Programs:
    """How programs are run: each line is said before what changes something."""

    say: Callable[[str], None]
    dry_run: bool = False
    limit_s: int = 900
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, words: Sequence[str], otherwise: UserError | None = None, *, shown: bool = False
    ) -> str:
        """Run a program and return what it prints, or let it print (`shown`).

        Raises:
            Stop: the program is missing, takes too long, or fails; then it is `otherwise`, if given.

        """
        if self.dry_run:
            self.say(f"would run {shlex.join(words)}")
            return ""
        if shown:
            self.say(f"→ {shlex.join(words)}")
        require(words[0])
        try:
            done = subprocess.run(
                words,
                capture_output=not shown,
                text=True,
                check=False,
                timeout=self.limit_s,
                env={**os.environ, **self.environ},
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{words[0]} took more than {self.limit_s // 60} minutes",
                "run the same command again",
            ) from None
        if done.returncode == 0:
            return done.stdout or ""
        text = (done.stderr or done.stdout or "").strip()
        if otherwise is not None:
            print(text, end="\n" if text else "", file=sys.stderr)
            raise otherwise
        last = "\n".join(text[max(text.rfind("ERROR: "), 0) :].splitlines()[-5:])
        raise UserError(
            f"{' '.join(words[:3])} failed{f': {last}' if last else ''}",
            "mend what it says, and run the same command again",
        )
