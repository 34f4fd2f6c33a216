"""A change of the root CA, step by step: what is decided, and what the loop does on a store in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common import pki, pki_chain
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.objects import Cluster, ManagerStatus, Node, NodeDescription, NodeStatus, NodeTLS
from pyswarm_manager.ca.rotation.decide import Step, awaited_nodes, etcd_restart_turn, finished, next_step
from pyswarm_manager.ca.rotation.loop import RootRotator
from pyswarm_manager.ca.rotation.start import force_rotate_of, parse_ca_config, stored_spec, with_ca_request
from pyswarm_manager.ca.signing import moment, signing_in_force, trusted_roots
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store

NOW_NS = ManualClock().now_ns()
OLD = pki.new_root(moment(NOW_NS))
NEW = pki.new_root(moment(NOW_NS))
CLUSTER = Cluster(
    id="c",
    root_certificate_pem=OLD[0],
    root_key_pem=OLD[1],
    worker_join_token=pki.new_join_token(OLD[0]),
    manager_join_token=pki.new_join_token(OLD[0]),
)


def asked(spec: dict[str, object], cluster: Cluster = CLUSTER) -> Cluster:
    """Return the cluster after a posted `CAConfig`."""
    changed = with_ca_request(cluster, parse_ca_config({"CAConfig": spec}, NOW_NS))
    return msgspec.structs.replace(changed, spec_json=msgspec.json.encode(stored_spec({"CAConfig": spec})))


ROTATING = asked({"SigningCACert": NEW[0], "SigningCAKey": NEW[1]})
FINISHED = finished(ROTATING)


def uses(cluster: Cluster, etcd_trust: str = "") -> NodeTLS:
    """What a node says that uses what the cluster wants."""
    return NodeTLS(
        issuer_digest=pki.root_digest(signing_in_force(cluster).root_pem),
        trust_digest=pki_chain.bundle_digest(trusted_roots(cluster)),
        etcd_trust_digest=pki_chain.bundle_digest(etcd_trust),
    )


def node(node_id: str, tls: NodeTLS, *, state: str = "ready", is_manager: bool = False, is_voter: bool = True) -> Node:
    manager = ManagerStatus(address=f"{node_id}:2377", is_voter=is_voter) if is_manager else None
    return Node(
        id=node_id,
        description=NodeDescription(tls=tls),
        status=NodeStatus(state=state),
        manager=manager,  # type: ignore[arg-type]
    )


def manager(node_id: str, etcd_trust: str, **options: object) -> Node:
    return node(node_id, uses(FINISHED, etcd_trust), is_manager=True, **options)  # type: ignore[arg-type]


def test_without_a_change_there_is_nothing_to_do() -> None:
    assert next_step(CLUSTER, [node("n1", NodeTLS())]) is Step.WAIT
    assert etcd_restart_turn(CLUSTER, [manager("n1", OLD[0])], "n1") == ""
    assert awaited_nodes(CLUSTER, [node("n1", NodeTLS())]) == ()


def test_during_a_change_the_new_root_signs_and_both_are_trusted() -> None:
    signing = signing_in_force(ROTATING)
    assert (signing.root_pem, signing.key_pem) == NEW
    assert pki_chain.issuer_digest(signing.tail_pem, OLD[0]) == pki.root_digest(OLD[0])
    assert pki_chain.split_bundle(trusted_roots(ROTATING)) == (OLD[0], NEW[0])


@pytest.mark.parametrize("state", ["ready", "down", "unknown"])
def test_a_change_waits_for_every_node_whatever_its_state(state: str) -> None:
    nodes = [node("n1", uses(ROTATING)), node("n2", uses(CLUSTER), state=state)]
    assert next_step(ROTATING, nodes) is Step.WAIT
    assert awaited_nodes(ROTATING, nodes) == ("n2",)
    assert next_step(ROTATING, nodes[:1]) is Step.FINISH


def test_a_node_that_has_its_certificate_but_not_the_trust_is_awaited_too() -> None:
    half = msgspec.structs.replace(uses(ROTATING), trust_digest=uses(CLUSTER).trust_digest)
    assert awaited_nodes(ROTATING, [node("n1", half)]) == ("n1",)


def test_afterwards_leaves_keep_the_cross_certificate_until_no_etcd_is_behind() -> None:
    assert (FINISHED.root_certificate_pem, FINISHED.root_rotation, trusted_roots(FINISHED)) == (NEW[0], None, NEW[0])
    assert signing_in_force(FINISHED).tail_pem
    behind = [manager("n1", NEW[0]), manager("n2", trusted_roots(ROTATING))]
    assert next_step(FINISHED, behind) is Step.WAIT
    assert next_step(FINISHED, [manager("n1", NEW[0]), manager("n2", NEW[0]), node("n3", uses(CLUSTER))]) is Step.DROP_CROSS


def test_etcd_members_are_restarted_in_turn_the_leader_last() -> None:
    nodes = {name: manager(name, OLD[0]) for name in ("n1", "n2", "n3")}
    turns = []
    while turn := etcd_restart_turn(FINISHED, nodes.values(), "n1"):
        turns.append(turn)
        nodes[turn] = manager(turn, NEW[0])
    assert turns == ["n2", "n3", "n1"]


@pytest.mark.parametrize("unsound", [manager("n2", NEW[0], state="down"), manager("n2", NEW[0], is_voter=False)])
def test_no_member_is_restarted_while_another_manager_is_not_sound(unsound: Node) -> None:
    assert etcd_restart_turn(FINISHED, [manager("n1", OLD[0]), unsound, manager("n3", OLD[0])], "n3") == ""


@given(states=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=7), leader=st.integers(0, 6))
def test_a_turn_never_leaves_the_cluster_without_the_other_managers(states: list[tuple[bool, bool]], leader: int) -> None:
    nodes = [
        manager(f"n{i}", NEW[0] if is_done else OLD[0], state="ready" if is_ready else "down")
        for i, (is_done, is_ready) in enumerate(states)
    ]
    turn = etcd_restart_turn(FINISHED, nodes, f"n{leader}")
    if turn:
        assert all(n.status.state == "ready" for n in nodes)
        assert turn != f"n{leader}" or all(is_done for i, (is_done, _) in enumerate(states) if i != leader)
    else:
        assert not all(is_ready for _, is_ready in states) or all(is_done for is_done, _ in states)


def test_two_changes_in_a_row_keep_both_cross_certificates() -> None:
    again = asked({"ForceRotate": 1}, FINISHED)
    assert again.root_rotation is not None
    assert pki_chain.split_bundle(signing_in_force(again).tail_pem) == (
        again.root_rotation.cross_certificate_pem,
        FINISHED.cross_certificate_pem,
    )


def test_another_number_asks_for_a_new_root_and_the_same_one_for_nothing() -> None:
    begun = asked({"ForceRotate": 1})
    assert begun.root_rotation is not None
    assert force_rotate_of(begun) == 1
    assert asked({"ForceRotate": 1}, begun).root_rotation == begun.root_rotation
    other = asked({"ForceRotate": 2}, begun).root_rotation
    assert other is not None
    assert other.root_certificate_pem != begun.root_rotation.root_certificate_pem
    assert pki_chain.issuer_digest(other.cross_certificate_pem, OLD[0]), "the root that is in force signs, not the abandoned one"


def test_the_present_root_gives_a_change_up() -> None:
    assert asked({"SigningCACert": OLD[0], "SigningCAKey": OLD[1]}, ROTATING).root_rotation is None


def test_the_root_of_a_change_that_is_under_way_changes_nothing() -> None:
    assert asked({"SigningCACert": NEW[0], "SigningCAKey": NEW[1]}, ROTATING).root_rotation == ROTATING.root_rotation


def test_neither_root_nor_key_are_kept_in_the_spec() -> None:
    assert stored_spec({"CAConfig": {"SigningCACert": "a", "SigningCAKey": "b", "ForceRotate": 3}}) == {
        "CAConfig": {"ForceRotate": 3}
    }
    assert stored_spec({"Name": "default"}) == {"Name": "default"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"SigningCAKey": NEW[1]}, "if a signing CA key is provided, the signing CA cert must also be provided"),
        ({"SigningCACert": NEW[0]}, "external CAs are not supported"),
        ({"SigningCACert": NEW[0], "SigningCAKey": OLD[1]}, "certificate key mismatch"),
        ({"ForceRotate": -1}, "must be a whole number"),
        ("x", "must be an object"),
    ],
)
def test_a_wrong_request_is_refused(config: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_ca_config({"CAConfig": config}, NOW_NS)


def test_external_cas_are_not_offered() -> None:
    with pytest.raises(Unimplemented, match="external CAs are not supported"):
        parse_ca_config({"CAConfig": {"ExternalCAs": [{"URL": "https://ca"}]}}, NOW_NS)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with memory_store(ManualClock()) as store:
        await store.update(lambda tx: tx.create(CLUSTER))
        await store.update(lambda tx: tx.create(node("n1", uses(CLUSTER, OLD[0]), is_manager=True)))
        await store.update(lambda tx: tx.create(node("n2", uses(CLUSTER))))
        running = asyncio.ensure_future(RootRotator(store).run())
        yield store
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_the_loop_carries_a_change_through(store: Store) -> None:
    await store.update(lambda tx: tx.update(with_ca_request(tx.cluster, parse_ca_config({"CAConfig": {"ForceRotate": 1}}, NOW_NS))))
    during = store.view.cluster
    assert during.root_rotation is not None
    assert during.worker_join_token == CLUSTER.worker_join_token, "tokens pin the root that still is in force"
    await report(store, "n1", uses(during, OLD[0]))
    await settle()
    assert store.view.cluster.root_rotation is not None
    await report(store, "n2", uses(during))
    await settle()
    after = store.view.cluster
    assert after.root_certificate_pem == during.root_rotation.root_certificate_pem
    for token in (after.worker_join_token, after.manager_join_token):
        assert pki.parse_join_token(token).ca_digest == pki.root_digest(after.root_certificate_pem)
    assert after.cross_certificate_pem
    assert etcd_restart_turn(after, store.view.nodes, "n1") == "n1"
    await report(store, "n1", uses(after, after.root_certificate_pem))
    await settle()
    assert store.view.cluster.cross_certificate_pem == ""


async def report(store: Store, node_id: str, tls: NodeTLS) -> None:
    def change(node: Node) -> Node:
        return msgspec.structs.replace(node, description=NodeDescription(tls=tls))

    await store.update(lambda tx: tx.update(change(tx.nodes.must_get(node_id))))


async def settle() -> None:
    for _ in range(200):
        await asyncio.sleep(0)
