"""Compare the predictions of the servers before they are measured: a wrong answer may be a fast one."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

import requests

from benchmarks.ceiling import Ceiling
from benchmarks.errors import AnswerError
from benchmarks.servers import RunningServer
from benchmarks.workloads import Workload
from handler.comparison import find_differences

MAX_BODIES, CLIENTS = 16, 8
INSTANCES = (1, 16)
TOLERANCE = 0.05
MAX_DIFFERENT = 0.05
"""Floats, and this part of the predictions, may differ: with bfloat16 near ties depend on the batch."""
TIMEOUT_S = 120


def check(workload: Workload, ceiling: Ceiling, servers: dict[str, RunningServer]) -> None:
    """Send requests to each server from several clients; raise AnswerError unless all predict as the model does."""
    for count in INSTANCES:
        bodies = workload.write_bodies(count).read_text().splitlines()[:MAX_BODIES]
        expected = ceiling.predict(bodies)
        for name, server in servers.items():
            server.resume()
            try:
                with ThreadPoolExecutor(CLIENTS) as pool:
                    found = list(pool.map(partial(_predict, server.url), bodies))
            except AnswerError as error:
                raise AnswerError(f"{workload.name}: {name}: {error}") from None
            server.pause()
            if difference := find_error(found, expected):
                raise AnswerError(f"{workload.name}: {name}: {difference}")


def find_error(found: list[Any], expected: list[list[Any]]) -> str:
    """Return how the predictions of requests differ from the expected ones; "" if they are the same."""
    differences = []
    for index, (answer, wanted) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(answer, list) or len(answer) != len(wanted):
            return f"request {index}: expected {len(wanted)} predictions, got {str(answer)[:200]}"
        for pair in zip(answer, wanted, strict=True):
            differences += find_differences(*pair, TOLERANCE)[:1]
    total = sum(map(len, expected))
    if len(differences) <= MAX_DIFFERENT * total:
        return ""
    return f"{len(differences)} of {total} predictions differ from the model's: {differences[0]}"


def _predict(url: str, body: str) -> Any:
    """Return the predictions; BentoML returns them without an object around them."""
    with requests.Session() as session:
        session.trust_env = False  # requests to a container must bypass a proxy
        try:
            headers = {"Content-Type": "application/json"}
            response = session.post(url, body, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise AnswerError(f"no answer: {error}") from error
    if response.status_code != HTTPStatus.OK:
        raise AnswerError(f"status {response.status_code}: {response.text[:200]}")
    document = json.loads(response.content)
    return document.get("predictions") if isinstance(document, dict) else document
