"""GET AIP_HEALTH_ROUTE."""

from typing import Any

from contract.clauses.conftest import Watched, why
from contract.http import get_health, predict
from contract.vertex import PROBE_S


def test_health_on_AIP_HEALTH_ROUTE_becomes_200(started: Watched) -> None:
    assert started.healthy_s is not None, why(started)


def test_health_answers_within_10_s(ready: Watched) -> None:
    answer = get_health(ready)
    assert answer.code == 200
    assert answer.seconds < PROBE_S


def test_health_is_200_only_once_predictions_are_answered(
    started_anew: Watched, instances: list[Any]
) -> None:
    assert started_anew.healthy_s is not None, why(started_anew)
    answer = predict(started_anew, {"instances": instances})
    assert answer.code == 200, f"health says 200, a prediction gets {answer.code}"
