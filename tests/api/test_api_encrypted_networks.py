"""Encrypted networks through the API: the option, what nodes say about themselves, and that no key is ever shown."""

from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID

from pyswarm_manager.store.store import Store

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYyE="


@pytest.mark.parametrize("value", ["", "true", "1", "false"])
async def test_the_option_is_taken_and_shown(client: httpx.AsyncClient, value: str) -> None:
    body = {"Name": "enc", "Driver": "overlay", "Options": {"encrypted": value}}
    answer = await client.post("/networks/create", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["Warning"] == ""
    shown = (await client.get("/networks/enc")).json()
    assert shown["Options"]["encrypted"] == value


async def test_a_value_that_says_neither_yes_nor_no_is_refused(client: httpx.AsyncClient) -> None:
    body = {"Name": "enc", "Driver": "overlay", "Options": {"encrypted": "perhaps"}}
    answer = await client.post("/networks/create", json=body)
    assert answer.status_code == 400
    assert 'invalid value "perhaps" of the option encrypted: it is true or false' in answer.json()["message"]


async def test_a_node_says_whether_it_can(client: httpx.AsyncClient, store: Store) -> None:
    async def described(**changes: Any) -> Any:
        def change(tx: Any) -> None:
            node = tx.nodes.must_get(MANAGER_ID)
            tx.update(msgspec.structs.replace(node, description=msgspec.structs.replace(node.description, **changes)))

        await store.update(change)
        return (await client.get(f"/nodes/{MANAGER_ID}")).json()["Description"].get("Encryption")

    assert await described(encryption="", encryption_problem="") is None
    assert await described(encryption_problem="no WireGuard") == {"Kind": "none", "Problem": "no WireGuard"}
    able = await described(encryption="kernel", encryption_problem="", wireguard_key="public", wireguard_port=51820)
    assert able == {"Kind": "kernel", "PublicKey": "public", "Port": 51820}


@pytest.mark.parametrize("path", ["/swarm", "/info", "/nodes", "/networks"])
async def test_the_clusters_key_is_never_shown(client: httpx.AsyncClient, store: Store, path: str) -> None:
    def change(tx: Any) -> None:
        tx.update(msgspec.structs.replace(tx.cluster, network_key=KEY))

    await store.update(change)
    answer = await client.get(path)
    assert answer.status_code == 200
    assert KEY not in answer.text
