"""Healthchecks in the Engine API: what a service may ask, and how a container's health is shown."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from pyswarm_agent.runtime.records import ContainerConfig, HealthcheckConfig
from pyswarm_node.api.fake_control import FakeNodeControl

SECOND_NS = 1_000_000_000
ID, OTHER_ID = "a" * 64, "b" * 64


def service(**healthcheck: Any) -> dict[str, Any]:
    return {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x:1", "Healthcheck": healthcheck}}}


@pytest.mark.parametrize(
    ("healthcheck", "message"),
    [
        ({"Interval": 1}, "ContainerSpec: Interval in HealthConfig cannot be less than 1ms"),
        ({"Timeout": -1}, "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms"),
        ({"StartPeriod": 999_999}, "ContainerSpec: StartPeriod in HealthConfig cannot be less than 1ms"),
        ({"StartInterval": 1}, "ContainerSpec: StartInterval in HealthConfig cannot be less than 1ms"),
        ({"Retries": -1}, "ContainerSpec: Retries in HealthConfig cannot be negative"),
        ({"Test": ["curl", "localhost"]}, "ContainerSpec: Unknown healthcheck type 'curl'"),
        ({"Test": ["CMD"]}, "ContainerSpec: Test in HealthConfig has nothing to execute after 'CMD'"),
        ({"Test": ["CMD-SHELL", ""]}, "ContainerSpec: Test in HealthConfig has nothing to execute after 'CMD-SHELL'"),
    ],
)
async def test_what_makes_no_sense_is_refused(client: httpx.AsyncClient, healthcheck: dict[str, Any], message: str) -> None:
    answer = await client.post("/services/create", json=service(**healthcheck))
    assert answer.status_code == 400
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    "healthcheck",
    [{}, {"Test": ["NONE"]}, {"Test": []}, {"Test": ["CMD-SHELL", "true"], "Interval": SECOND_NS, "Retries": 0}],
)
async def test_what_makes_sense_is_stored_without_a_warning(client: httpx.AsyncClient, healthcheck: dict[str, Any]) -> None:
    answer = await client.post("/services/create", json=service(**healthcheck), params={"resolveImage": "false"})
    assert answer.status_code == 201
    assert not answer.json().get("Warnings")
    stored = (await client.get("/services/web")).json()["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert stored["Healthcheck"] == healthcheck


async def test_health_is_listed_inspected_and_filtered(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    agent = control.agent
    check = HealthcheckConfig(test=("CMD", "/check"), interval_s=0.01)
    is_healthy = asyncio.Event()
    for container_id, config in ((ID, check), (OTHER_ID, HealthcheckConfig())):
        await agent.containers.create(ContainerConfig(id=container_id, name=container_id[:4], args=("/x",), healthcheck=config))
        await agent.containers.start_container(container_id)
        agent.health.watch(container_id, config, lambda health: is_healthy.set() if health.status == "healthy" else None)
    await asyncio.wait_for(is_healthy.wait(), 10)
    listed = {one["Id"]: one["Status"] for one in (await client.get("/containers/json")).json()}
    assert listed[ID].startswith("Up ")
    assert listed[ID].endswith(" (healthy)")
    assert "(" not in listed[OTHER_ID]
    details = (await client.get(f"/containers/{ID}/json")).json()
    assert (details["State"]["Health"]["Status"], details["State"]["Health"]["FailingStreak"]) == ("healthy", 0)
    assert details["State"]["Health"]["Log"][0].keys() == {"Start", "End", "ExitCode", "Output"}
    assert details["Config"]["Healthcheck"]["Test"] == ["CMD", "/check"]
    others = (await client.get(f"/containers/{OTHER_ID}/json")).json()
    assert "Health" not in others["State"]
    for wanted, ids in (("healthy", [ID]), ("none", [OTHER_ID]), ("unhealthy", [])):
        found = await client.get("/containers/json", params={"filters": json.dumps({"health": [wanted]})})
        assert [one["Id"] for one in found.json()] == ids
