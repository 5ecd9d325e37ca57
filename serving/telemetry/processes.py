"""Linux's figures on the container's processes and sockets, from /proc."""

from pathlib import Path

KINDS = {
    "-m serving.container ": "entrypoint",
    "nginx: ": "nginx",
    "org.pytorch.serve.ModelServer": "torchserve",
    "model_service_worker": "worker",
    "serving_worker.fork_server": "worker",
    "serving.telemetry": "telemetry",
}
"""The kind of a process by a part of its command line; the first match counts."""
OTHER = "other"


def memory_bytes(root: Path = Path("/proc")) -> dict[str, int]:
    """Return each kind's memory; memory that processes share is divided among them (PSS)."""
    total: dict[str, int] = {}
    for entry in root.glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            rows = (entry / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # the process ended, or belongs to another user
        pss = next((row for row in rows if row.startswith("Pss:")), "Pss: 0 kB")
        kind = next((kind for part, kind in KINDS.items() if part in command), OTHER)
        total[kind] = total.get(kind, 0) + int(pss.split()[1]) * 1024
    return total


def dropped_datagrams(inode: int, table: Path = Path("/proc/self/net/udp")) -> int:
    """Return how many datagrams Linux dropped because a UDP socket's buffer was full."""
    for row in table.read_text().splitlines()[1:]:
        columns = row.split()
        if int(columns[9]) == inode:
            return int(columns[12])
    return 0
