"""Runs programs of this machine: gcloud, docker, make, kubectl."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.errors import UserError
from deploy.run_child import KILL_DELAY_S

RUN_CHILD = Path(__file__).with_name("run_child.py")
INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "docker": "https://docs.docker.com/engine/install",
    "kubectl": "gcloud components install kubectl, or your system's package",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin, or the package "
    "google-cloud-cli-gke-gcloud-auth-plugin: kubectl authenticates with it",
}
"""Program → how to install it."""


def require(*programs: str) -> None:
    """Raise UserError for the first program that is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            hint = INSTALL.get(program, f"install {program}")
            raise UserError(f"{program} is not installed", hint)


@dataclass(frozen=True)
class Programs:
    """Runs programs with a timeout; in a dry run, reports them instead."""

    report: Callable[[str], None]
    dry_run: bool = False
    timeout_s: int = 900
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables that are added to the environment."""
    changes: list[str] = field(default_factory=list)
    """Gets each command that is run."""

    def run(
        self, command: Sequence[str], failure: UserError | None = None, *, show_output: bool = False
    ) -> str:
        """Run a program and return its output, or pass the output through (`show_output`).

        Raises:
            UserError: the program is not installed, times out, or fails; `failure`, if given, in the last case.

        """
        if self.dry_run:
            self.report(f"would run {shlex.join(command)}")
            return ""
        if show_output:
            self.report(f"→ {shlex.join(command)}")
        program = command[0]
        require(program)
        self.changes.append(shlex.join(command))
        try:
            done = self._run(command, capture=not show_output)
        except subprocess.TimeoutExpired:
            reason = f"{program} timed out after {self.timeout_s // 60} minutes"
            raise UserError(reason, "run the same command again") from None
        if done.returncode == 0:
            return done.stdout or ""
        output = (done.stderr or done.stdout or "").strip()
        if failure is not None:
            print(output, end="\n" if output else "", file=sys.stderr)
            raise failure
        last = "\n".join(output[max(output.rfind("ERROR: "), 0) :].splitlines()[-5:])
        hint = "fix the cause, and run the same command again"
        raise UserError(f"{' '.join(command[:3])} failed{f': {last}' if last else ''}", hint)

    def _run(self, command: Sequence[str], *, capture: bool) -> subprocess.CompletedProcess[str]:
        """Run a program, and end it and its children if this process is interrupted or killed."""
        pipe = subprocess.PIPE if capture else None
        read_end, write_end = os.pipe()
        with (
            open(write_end, "wb") as parent,
            open(read_end, "rb") as child,
            subprocess.Popen(
                [sys.executable, "-S", str(RUN_CHILD), str(read_end), *command],
                stdout=pipe,
                stderr=pipe,
                text=True,
                env={**os.environ, **self.environ},
                pass_fds=[read_end],
                start_new_session=True,
            ) as process,
        ):
            child.close()
            try:
                out, err = process.communicate(timeout=self.timeout_s)
            except BaseException:
                parent.close()
                process.wait(KILL_DELAY_S * 2)
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)
