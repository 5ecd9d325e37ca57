"""Tests of the cost of machines, and of the quotas that accelerators need."""

import re
from dataclasses import replace
from typing import Any

import pytest

from deploy import quota
from deploy.cost import estimate_cost
from deploy.machines import load_table
from deploy.plan import DeployedModel, Machine, Replicas
from deploy.settings import Settings
from tests.images import ROOT


def test_cost_includes_replicas_and_accelerators() -> None:
    def hour(count: int, *machine: Any) -> float:
        return estimate_cost([(Machine(*machine), count)]).usd_per_hour

    with_t4 = ("n1-standard-4", "NVIDIA_TESLA_T4", 2)
    assert hour(3, *with_t4) == pytest.approx(3 * hour(1, *with_t4))
    assert hour(1, *with_t4) - hour(1, "n1-standard-4") == pytest.approx(2 * 0.4025)
    assert hour(0, "n1-standard-4") == hour(1, "n1-standard-4"), "it runs while there are requests"
    # The price of a g2 machine includes its L4.
    assert hour(1, "g2-standard-8", "NVIDIA_L4", 1) == hour(1, "g2-standard-8")


def test_replicas_with_a_part_of_a_machine_s_accelerators_share_its_cost() -> None:
    def machines(count: int, accelerators: int, part: str = "") -> float:
        machine = Machine(
            "a3-highgpu-8g", "NVIDIA_H100_80GB", accelerators, gpu_partition_size=part
        )
        whole = estimate_cost([(Machine("a3-highgpu-8g"), 1)]).usd_per_hour
        return estimate_cost([(machine, count)]).usd_per_hour / whole

    assert [machines(count, 8) for count in (1, 2)] == [1, 2]
    assert [machines(count, 2) for count in (1, 4, 5)] == [1, 1, 2]
    assert machines(2, 5) == 2, "a second replica of five does not fit beside the first"
    assert [machines(count, 1, "1g.10gb") for count in (56, 57)] == [1, 2]


def test_cost_of_machines_without_any_price_is_not_shown_as_zero() -> None:
    cost = estimate_cost([(Machine("a4-highgpu-8g", "NVIDIA_B200", 8), 2)])
    assert cost.per_hour == "the price of a4-highgpu-8g, which is not listed"
    assert "$0.00" not in str(cost)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_replicas": 3}, "at least 3 of custom_model_serving_nvidia_l4_gpus in us-central1"),
        ({"spot": True}, "at least 2 of custom_model_serving_preemptible_nvidia_l4_gpus in"),
        (
            {"accelerator_type": "NVIDIA_GB200"},
            "at least 2 of the quota of NVIDIA_GB200 for serving",
        ),
    ],
)
def test_quota_that_accelerators_need_is_named_as_by_google(
    values: dict[str, Any], expected: str
) -> None:
    l4: dict[str, Any] = {"accelerator_type": "NVIDIA_L4", "accelerator_count": 1}
    need = quota.describe_need(Settings(project="my-project", **(l4 | values)))
    assert f"quota: {expected}" in need
    assert "https://console.cloud.google.com/iam-admin/quotas?project=my-project&" in need
    assert not quota.describe_need(Settings(project="my-project"))


def test_quota_that_deployed_models_use_is_the_sum_of_their_maximums() -> None:
    l4, spot = Machine("g2-standard-24", "NVIDIA_L4", 2), Machine("g2-standard-4", "NVIDIA_L4", 1)
    spot = replace(spot, spot=True)
    deployed = [
        DeployedModel("1", "1", machine, Replicas(1, maximum))
        for machine, maximum in ((l4, 3), (l4, 1), (spot, 2), (Machine("e2-standard-2"), 9))
    ]
    assert list(quota.describe_usage(deployed)) == [
        "quota: up to 8 of custom_model_serving_nvidia_l4_gpus",
        "quota: up to 2 of custom_model_serving_preemptible_nvidia_l4_gpus",
    ]


def test_page_about_gpus_has_the_prices_and_the_quotas() -> None:
    rows = re.findall(
        r"`(NVIDIA_\w+)` \| `([\w-]+)` \| \$([\d.]+) \| \$([\d,]+) \| `(\w+)` \|",
        (ROOT / "docs" / "gpu.md").read_text(),
    )
    assert len(rows) == 4
    for accelerator, machine_type, hour, month, name in rows:
        cost = estimate_cost([(Machine(machine_type, accelerator, 1), 1)])
        assert f"about ${hour} an hour (${month} a month), " in str(cost)
        assert load_table().find_quota(accelerator, spot=False) == name
        assert 1 in load_table().accelerators(machine_type)[accelerator]


def test_cost_names_machines_without_a_price_and_the_source_of_the_prices() -> None:
    cost = estimate_cost([(Machine("z9-giga-1"), 1), (Machine("e2-standard-2"), 1)])
    assert cost.unknown == ("z9-giga-1",)
    assert "z9-giga-1" in str(cost)
    assert "$0.08 an hour" in str(cost)
    assert str(cost).endswith("prices of 2026-11 from https://cloud.google.com/vertex-ai/pricing")
