"""Send a request to a server on this machine as soon as it is ready, and print the response as JSON.

It needs only the standard library: a trial passes its text to the Python in a container.
"""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

REQUEST_TIMEOUT_S = 120
POLL_INTERVAL_S = 0.1


def wait_until_ready(port: int, health: str, timeout_s: float) -> float:
    """Return the seconds until the health route returned 200; raise TimeoutError."""
    started = time.monotonic()
    while time.monotonic() < started + timeout_s:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", health)
            if connection.getresponse().status == 200:
                return time.monotonic() - started
        except (OSError, http.client.HTTPException):
            pass  # it does not listen yet
        finally:
            connection.close()
        time.sleep(POLL_INTERVAL_S)
    raise TimeoutError(f"not ready within {timeout_s:g} s")


def send(port: int, path: str, body: bytes, content_type: str) -> dict[str, Any]:
    """Return status, content type, text and number of parts of the response, or its error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    parts: list[bytes] = []
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        while part := response.read1(1 << 20):
            parts.append(part)
    except (OSError, http.client.HTTPException) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()
    return {
        "status": response.status,
        "content_type": response.headers.get("Content-Type", ""),
        "parts": len(parts) if response.chunked else 1,
        "body": b"".join(parts).decode(errors="replace"),
    }


def main() -> None:
    """Take port, health route, predict route, timeout in seconds and, for a request, its content type and file."""
    port, health, path, timeout_s, *request = sys.argv[1:]
    result: dict[str, Any] = {"startup_s": wait_until_ready(int(port), health, float(timeout_s))}
    if request:
        content_type, file = request
        result["response"] = send(int(port), path, Path(file).read_bytes(), content_type)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
