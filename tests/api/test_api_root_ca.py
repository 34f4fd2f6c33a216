"""The root CA through the API: `CAConfig` in and out, and what nodes are shown to use."""

from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID

from pyswarm_common import pki, pki_chain
from pyswarm_common.objects import NodeTLS
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.ca.signing import moment
from pyswarm_manager.store.store import Store

HOUR_NS = 3600 * SECOND_NS


@pytest.fixture
async def signing_key(store: Store, root_pem: str) -> str:
    """Give the cluster a root whose key it has; returns the key."""
    new_pem, key_pem = pki.new_root(moment(1_700_000_000 * SECOND_NS))
    assert new_pem != root_pem
    changed = {"root_certificate_pem": new_pem, "root_key_pem": key_pem}
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, **changed)))
    return key_pem


async def post(client: httpx.AsyncClient, **config: Any) -> httpx.Response:
    swarm = (await client.get("/swarm")).json()
    spec = {**swarm["Spec"], "CAConfig": {**swarm["Spec"]["CAConfig"], **config}}
    return await client.post("/swarm/update", params={"version": swarm["Version"]["Index"]}, json=spec)


async def use(store: Store, node_id: str, tls: NodeTLS) -> None:
    def change(tx: Any) -> None:
        node = tx.nodes.must_get(node_id)
        description = msgspec.structs.replace(node.description, tls=tls)
        tx.update(msgspec.structs.replace(node, description=description))

    await store.update(change)


async def test_the_lifetime_of_certificates_is_kept_and_an_hour_at_least(client: httpx.AsyncClient, store: Store) -> None:
    assert (await client.get("/swarm")).json()["Spec"]["CAConfig"] == {"NodeCertExpiry": 2160 * HOUR_NS}
    assert (await post(client, NodeCertExpiry=2 * HOUR_NS)).status_code == 200
    assert store.view.cluster.node_certificate_lifetime_s == 7200
    assert (await client.get("/swarm")).json()["Spec"]["CAConfig"]["NodeCertExpiry"] == 2 * HOUR_NS
    refused = await post(client, NodeCertExpiry=HOUR_NS - 1)
    assert refused.status_code == 400
    assert refused.json()["message"] == "rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s"


@pytest.mark.usefixtures("signing_key")
async def test_a_change_shows_what_nodes_shall_use_and_what_they_do(client: httpx.AsyncClient, store: Store) -> None:
    before = (await client.get("/swarm")).json()
    old_digest = pki.root_digest(before["TLSInfo"]["TrustRoot"])
    await use(store, MANAGER_ID, NodeTLS(issuer_digest=old_digest, trust_digest=old_digest))
    assert (await client.get(f"/nodes/{MANAGER_ID}")).json()["Description"]["TLSInfo"] == before["TLSInfo"]
    assert (await post(client, ForceRotate=1)).status_code == 200
    during = (await client.get("/swarm")).json()
    assert (before["RootRotationInProgress"], during["RootRotationInProgress"]) == (False, True)
    assert (await client.get("/info")).json()["Swarm"]["Cluster"]["RootRotationInProgress"] is True
    assert len(pki_chain.split_bundle(during["TLSInfo"]["TrustRoot"])) == 2
    assert during["TLSInfo"]["CertIssuerPublicKey"] != before["TLSInfo"]["CertIssuerPublicKey"]
    assert during["JoinTokens"] == before["JoinTokens"]
    rotation = store.view.cluster.root_rotation
    assert rotation is not None
    tls = NodeTLS(
        issuer_digest=pki.root_digest(rotation.root_certificate_pem),
        trust_digest=pki_chain.bundle_digest(during["TLSInfo"]["TrustRoot"]),
    )
    await use(store, WORKER_ID, tls)
    nodes = {n["ID"]: n["Description"]["TLSInfo"] for n in (await client.get("/nodes")).json()}
    assert nodes[WORKER_ID] == during["TLSInfo"]
    assert nodes[MANAGER_ID] == before["TLSInfo"]


async def test_a_spec_that_is_posted_back_begins_nothing(client: httpx.AsyncClient, store: Store, signing_key: str) -> None:
    await post(client, ForceRotate=1)
    rotation = store.view.cluster.root_rotation
    assert (await post(client)).status_code == 200
    assert store.view.cluster.root_rotation == rotation
    own = store.view.cluster.root_certificate_pem
    assert (await post(client, SigningCACert=own, SigningCAKey=signing_key)).status_code == 200
    assert store.view.cluster.root_rotation is None, "the present root ends the change"
    assert "SigningCAKey" not in (await client.get("/swarm")).text
    assert signing_key not in store.view.cluster.spec_json.decode()


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        ({"SigningCAKey": "k"}, 400, "if a signing CA key is provided, the signing CA cert must also be provided"),
        ({"SigningCACert": "c", "SigningCAKey": "k"}, 400, "no valid root CA certificates found"),
        ({"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://ca"}]}, 501, "external CAs are not supported"),
    ],
)
async def test_what_cannot_be_is_refused(client: httpx.AsyncClient, config: dict[str, Any], status: int, message: str) -> None:
    refused = await post(client, **config)
    assert refused.status_code == status
    assert message in refused.json()["message"]
