"""From a trained network to the fastest thing on this machine that gives the same answers.

It travels in the archive, and imports torch alone. A task hands its network to `ready`;
`model/export` measures what there is to choose from and writes the choice into the archive.
"""

from task.backends.candidates import CANDIDATES, Engine
from task.backends.choice import ready

__all__ = ["CANDIDATES", "Engine", "ready"]
