"""Run a program, and end it and its children when the process that started this one ends, in whatever way.

Usage: python run_child.py FD PROGRAM ARGUMENT…

FD is the end for reading of a pipe, whose other end only that process has. This process has to lead a group.
"""

import os
import signal
import subprocess
import sys
import threading
import time

KILL_DELAY_S = 10
"""How long the program has after SIGTERM."""


def end_with_parent(fd: int) -> None:
    """Wait until the other end of the pipe is closed, and end the group of this process."""
    os.read(fd, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(KILL_DELAY_S)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Exit with the program's exit code, 128 and the signal's number after a signal."""
    process = subprocess.Popen(sys.argv[2:])
    # After the start, because a program inherits what is ignored.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    code = process.wait()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
