"""The labels by which services depend on each other, through the API: what is refused, and what is stored."""

from typing import Any

import httpx
import pytest
from test_api_services import create, service_spec, update

from pyswarm_common.service_labels import DEPENDS_ON, REBALANCE


def depending(name: str, names: str, **labels: str) -> dict[str, Any]:
    return {**service_spec(name), "Labels": {DEPENDS_ON: names, **labels}}


async def test_services_may_be_created_in_any_order_but_the_last_of_a_cycle_is_refused(client: httpx.AsyncClient) -> None:
    await create(client, depending("web", "db"))
    await create(client, depending("cache", "web"))
    response = await client.post("/services/create", json=depending("db", "cache"))
    assert response.status_code == 400
    cycle = "label pyswarm.depends_on: services cannot depend on each other in a circle: db -> cache -> web -> db"
    assert cycle in response.json()["message"]
    await create(client, service_spec("db"))
    response = await update(client, "db", depending("db", "cache"))
    assert response.status_code == 400
    assert cycle in response.json()["message"]
    assert (await update(client, "db", depending("db", "other"))).status_code == 200


async def test_a_service_that_others_name_can_be_removed(client: httpx.AsyncClient) -> None:
    await create(client, service_spec("db"))
    await create(client, depending("web", "db"))
    assert (await client.delete("/services/db")).status_code == 200


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({DEPENDS_ON: "web"}, "service web cannot depend on itself"),
        ({DEPENDS_ON: "a b"}, '"a b" is not the name of a service'),
        ({REBALANCE: "1"}, "label pyswarm.rebalance is"),
    ],
)
async def test_labels_without_sense_are_refused(client: httpx.AsyncClient, labels: dict[str, str], text: str) -> None:
    response = await client.post("/services/create", json={**service_spec("web"), "Labels": labels})
    assert response.status_code == 400
    assert text in response.json()["message"]
