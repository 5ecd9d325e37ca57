"""What the processes of this container hold, as Linux tells it under /proc."""

from pathlib import Path

KINDS = {
    "serving.container.entrypoint": "entrypoint",
    "nginx: ": "front",
    "org.pytorch.serve.ModelServer": "torchserve",
    "model_service_worker": "worker",
    "serving.telemetry": "telemetry",
}
"""By what is in a command line; the first that fits."""
OTHER = "other"


def memory(root: Path = Path("/proc")) -> dict[str, int]:
    """Return bytes by kind of process; what several share is shared out among them (PSS)."""
    held: dict[str, int] = {}
    for entry in root.glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            told = (entry / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile, or it is another user's
        pss = next((row for row in told.splitlines() if row.startswith("Pss:")), "Pss: 0 kB")
        kind = next((kind for part, kind in KINDS.items() if part in line), OTHER)
        held[kind] = held.get(kind, 0) + int(pss.split()[1]) * 1024
    return held


def dropped(socket: int, table: Path = Path("/proc/self/net/udp")) -> int:
    """Return how many datagrams found no room in a UDP socket's buffer; `socket` is its inode."""
    for row in table.read_text().splitlines()[1:]:
        columns = row.split()
        if int(columns[9]) == socket:
            return int(columns[12])
    return 0
