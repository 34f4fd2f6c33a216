"""The key of encrypted overlays: made when it is needed, made anew in time, and never while a node would miss it."""

import base64
import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Network, Node, NodeReadiness, NodeStatus
from pyswarm_common.pki import new_root
from pyswarm_manager.dispatcher.node_states import node_state
from pyswarm_manager.key_manager.decide import KEY, decide
from pyswarm_manager.key_manager.loop import KeyManager
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.tables import Tables

HOUR_NS = 3600 * 10**9
ENCRYPTED, PLAIN = b'{"Name":"a","Driver":"overlay","Options":{"encrypted":""}}', b'{"Name":"a","Driver":"overlay"}'


def tables(spec: bytes = ENCRYPTED, key: str = "", made_at_ns: int = 0, nodes: tuple[NodeReadiness, ...] = ("ready",)) -> Tables:
    made = Tables()
    made.table(Cluster).put(Cluster(id="cluster", network_key=key, network_key_at_ns=made_at_ns), 1)
    made.table(Network).put(Network(id="net", name="a", spec_json=spec), 1)
    for number, state in enumerate(nodes):
        made.table(Node).put(Node(id=f"n{number}", status=NodeStatus(state=state)), 1)
    return made


def test_without_encrypted_networks_there_is_no_key() -> None:
    assert decide(tables(PLAIN), HOUR_NS, "new").is_empty
    assert decide(tables(PLAIN, "old"), 100 * HOUR_NS, "new").is_empty


def test_the_first_encrypted_network_brings_a_key_at_once() -> None:
    decisions = decide(tables(nodes=("ready", "unknown", "down")), HOUR_NS, "new")
    assert decisions.updated == (Cluster(id="cluster", network_key="new", network_key_at_ns=HOUR_NS),)
    assert decisions.wake_at_ns == {KEY: 13 * HOUR_NS}


def test_after_twelve_hours_there_is_another_one() -> None:
    young = decide(tables(key="old", made_at_ns=HOUR_NS), 13 * HOUR_NS - 1, "new")
    assert young.is_empty
    assert young.wake_at_ns == {KEY: 13 * HOUR_NS}
    due = decide(tables(key="old", made_at_ns=HOUR_NS), 13 * HOUR_NS, "new")
    assert [c.network_key for c in due.updated if isinstance(c, Cluster)] == ["new"]
    assert due.wake_at_ns == {KEY: 25 * HOUR_NS}


@pytest.mark.parametrize(("state", "waits"), [("ready", False), ("down", False), ("unknown", True), ("disconnected", True)])
def test_a_node_that_is_up_and_out_of_touch_holds_it_up(state: NodeReadiness, waits: bool) -> None:
    assert decide(tables(key="old", nodes=("ready", state)), 13 * HOUR_NS, "new").is_empty is waits


@given(
    st.integers(0, 100), st.integers(0, 100), st.lists(st.sampled_from(["ready", "down", "unknown", "disconnected"]), max_size=3)
)
def test_a_key_is_never_younger_than_its_time(made_at_h: int, now_h: int, states: list[NodeReadiness]) -> None:
    decisions = decide(tables(key="old", made_at_ns=made_at_h * HOUR_NS, nodes=tuple(states)), now_h * HOUR_NS, "new")
    assert decisions.is_empty or now_h - made_at_h >= 12


async def test_every_key_is_another() -> None:
    made, clock = tables(), ManualClock()
    async with memory_store(clock) as store:
        loop = KeyManager(store, clock)
    keys = set()
    for _ in range(2):
        (cluster,) = loop.decide(made, HOUR_NS, [KEY], 400).updated
        assert isinstance(cluster, Cluster)
        assert len(base64.b64decode(cluster.network_key)) == 32
        keys.add(cluster.network_key)
    assert len(keys) == 2


def test_the_state_of_a_node_has_the_key() -> None:
    made = tables(key="secret")
    certificate, key = new_root(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    cluster = msgspec.structs.replace(made.cluster, root_certificate_pem=certificate, root_key_pem=key)
    made.table(Cluster).put(cluster, 2)
    assert node_state(made, made.nodes.must_get("n0"), ()).network_key == "secret"
