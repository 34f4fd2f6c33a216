"""What an audit decides without a kernel: what differs, what is told, which firewall blocks, what an operation touches."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Conflict
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.audit.auditor import Auditor
from pyswarm_netplugin.audit.blanking import blanked
from pyswarm_netplugin.audit.drift import FIRST_PAUSE_S, Drift, DriftHistory
from pyswarm_netplugin.audit.facts import (
    ADDED,
    ADDRESS,
    CHANGED,
    GONE,
    KINDS,
    LINK,
    NEIGHBOUR,
    SETTING,
    TABLE,
    Difference,
    Entry,
    Fact,
    Facts,
    Key,
    LinkFact,
    differences,
)
from pyswarm_netplugin.audit.firewall import Chain, Condition, Rule, blocking
from pyswarm_netplugin.audit.touch import EVERY_OVERLAY, kinds_of, touched_by
from pyswarm_netplugin.audit.watch import PERIOD_S, NetworkWatch
from pyswarm_netplugin.audit.yielding import AuditInterrupted, BusyLock
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.state import Egress, Sandbox, State

UP = LinkFact(index=3, is_up=True, mtu_bytes=1450, mac=b"\x02\x42\x0a\x00\x01\x05", master="br0")
KEYS = st.builds(Key, st.sampled_from([LINK, ADDRESS, NEIGHBOUR]), st.sampled_from(["eth0", "eth1", "br0"]), st.sampled_from("ab"))
FACTS = st.dictionaries(KEYS, st.builds(Entry, st.sampled_from("xyz")))


@given(FACTS, st.booleans())
def test_nothing_differs_from_itself(facts: dict[Key, Fact], is_shared: bool) -> None:
    assert differences(facts, facts, devices={"eth0"}, is_shared=is_shared) == ()


@given(FACTS, FACTS)
def test_where_others_may_add_nothing_added_is_a_difference(sealed: dict[Key, Fact], now: dict[Key, Fact]) -> None:
    found = differences(sealed, now, devices={"eth0", "eth1", "br0"}, is_shared=True)
    assert all(each.how != ADDED for each in found)
    assert {each.key for each in found} <= set(sealed)


@given(FACTS, FACTS)
def test_what_was_touched_by_ourselves_is_no_difference(sealed: dict[Key, Fact], now: dict[Key, Fact]) -> None:
    assert differences(sealed, now, devices={"eth0"}, is_shared=False, touched=KINDS) == ()


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (LinkFact(3, False, 1450, UP.mac, "br0"), "eth0: is down"),
        (LinkFact(3, True, 900, UP.mac, ""), "eth0: MTU is 900, was 1450, is a port of nothing, was of br0"),
        (LinkFact(3, True, 1450, b"\x02" * 6, "br0"), "eth0: hardware address is 02:02:02:02:02:02, was 02:42:0a:00:01:05"),
        (LinkFact(3, True, 1450, UP.mac, "br0", ((1, b"x"),)), "eth0: its settings were changed"),
    ],
)
def test_a_changed_link_is_described(now: LinkFact, words: str) -> None:
    (found,) = differences({Key(LINK, "eth0"): UP}, {Key(LINK, "eth0"): now}, devices={"eth0"}, is_shared=True)
    assert found.describe() == words


def test_links_that_the_driver_made_anew_or_took_away_are_no_difference() -> None:
    sealed: dict[Key, Fact] = {Key(LINK, "p1"): UP, Key(NEIGHBOUR, "p1", "m"): Entry("")}
    again: dict[Key, Fact] = {Key(LINK, "p1"): LinkFact(9, True, 1450, UP.mac, "br0")}
    assert differences(sealed, again, devices={"p1"}, is_shared=False) == ()
    assert differences(sealed, {}, devices=set(), is_shared=False) == ()
    assert [each.describe() for each in differences(sealed, {}, devices={"p1"}, is_shared=False)] == [
        "p1 is gone",
        "neighbour m of p1 is gone",
    ]


def test_a_link_that_is_half_taken_away_is_no_difference() -> None:
    """The kernel lets go of what belongs to a bridge's port before the port itself is gone."""
    sealed: dict[Key, Fact] = {Key(LINK, "p1"): UP, Key(NEIGHBOUR, "p1", "m"): Entry("")}
    half: dict[Key, Fact] = {Key(LINK, "p1"): UP}
    assert differences(sealed, half, devices=set(), is_shared=False) == ()
    assert len(differences(sealed, half, devices={"p1"}, is_shared=False)) == 1


def test_a_setting_is_described_with_both_values() -> None:
    key = Key(SETTING, "", "ipv4/ip_forward")
    assert Difference(key, CHANGED, Entry("1"), Entry("0")).describe() == "ipv4/ip_forward is 0, was 1"


def test_drift_that_comes_back_all_the_time_is_told_ever_more_seldom() -> None:
    history = DriftHistory()
    drift = Drift(scope="overlay a", what=("vxlan0: is down",))
    told = [second for second in range(4000) if history.note([drift], float(second))]
    assert told[0] == 0
    assert [after - before for before, after in itertools.pairwise(told)] == [60, 120, 240, 480, 960, 1920]
    (kept,) = history.kept
    assert kept.times == 4000


def test_another_drift_is_told_at_once_and_the_count_since_the_last_with_the_next() -> None:
    history = DriftHistory()
    one, other = Drift(scope="a", what=("x",)), Drift(scope="a", what=("y",))
    assert history.note([one], 0.0) == [one]
    assert history.note([other], 1.0) == [other]
    assert history.note([one], 2.0) == []
    (again,) = history.note([one], FIRST_PAUSE_S)
    assert again.times == 2


def test_a_long_list_is_told_short() -> None:
    drift = Drift(scope="a", what=tuple(f"entry {n}" for n in range(20)))
    assert drift.sentence().endswith("entry 7; and 12 more")


def forward(*rules: Rule, policy: str = "drop", table: str = "site", more: tuple[Chain, ...] = ()) -> list[Chain]:
    """Return the chains of one table of others."""
    return [Chain("inet", table, "f", rules, policy), *more]


INTO, OUT = Condition("iif", "sw-egress"), Condition("oif", "sw-egress")


@pytest.mark.parametrize(
    ("chains", "ways"),
    [
        (forward(policy="accept"), None),
        (forward(), "out of and into"),
        (forward(Rule((INTO,), "accept")), "into"),
        (forward(Rule((OUT,), "accept")), "out of"),
        (forward(Rule((INTO,), "accept"), Rule((OUT,), "accept")), None),
        (forward(Rule((Condition("iif", "sw-", is_beginning=True),), "accept"), Rule((OUT,), "accept")), None),
        (forward(Rule((Condition("oif", "docker0", is_negated=True),), "accept")), None),
        (forward(Rule((Condition("other"),), "drop"), policy="accept"), None),
        (forward(Rule((), "drop"), policy="accept"), "out of and into"),
        (forward(Rule((), "jump", "g"), more=(Chain("inet", "site", "g", (Rule((), "accept"),)),)), None),
        (
            forward(Rule((), "jump", "g"), more=(Chain("inet", "site", "g", (Rule((), "return"), Rule((), "accept"))),)),
            "out of and into",
        ),
        (forward(Rule((), "jump", "f"), policy="drop"), "out of and into"),
        (forward(table="own"), None),
    ],
)
def test_what_a_firewall_does_to_the_bridge(chains: list[Chain], ways: str | None) -> None:
    found = list(blocking(chains, "sw-egress", "eth0", ["own"]))
    assert len(found) == (ways is not None)
    assert all(f"forwarded {ways} sw-egress" in warning for warning in found)


def test_what_operations_touch() -> None:
    assert touched_by([op.ChangePeers(network_id="a")]) == {"overlay a": {NEIGHBOUR}}
    assert touched_by([op.ChangeBalancing(sandbox_id="s", balance=op.Balance(is_first=True))]) == {"sandbox s": {TABLE}}
    assert touched_by([op.PublishPorts()])["host"] == KINDS
    assert EVERY_OVERLAY not in touched_by([op.RemoveSandbox(sandbox_id="s")])
    assert kinds_of({EVERY_OVERLAY: KINDS}, "overlay a") == KINDS
    assert kinds_of({EVERY_OVERLAY: KINDS}, "sandbox a") == frozenset()


def test_tables_that_were_changed_are_planned_anew() -> None:
    egress = Egress(address="172.19.0.1/16", mtu_bytes=1500)
    state = State(egress=egress, sandboxes={"s": Sandbox(chains={})})
    table = {"host": "ip pyswarm_test", "sandbox s": "ip pyswarm"}
    found = {scope: (Difference(Key(TABLE, "", name), how, None, None),) for scope, name in table.items() for how in (GONE,)}
    operations = plan(state, blanked(state, state, found, "test"))
    assert [type(operation) for operation in operations] == [op.MakeEgress, op.ChangeBalancing]
    assert blanked(state, state, {}, "test") == state


class Node:
    """A driver on a kernel in memory, with a watch that collects what it tells."""

    def __init__(self, folder: Path) -> None:
        self.kernel = FakeKernel()
        self.clock = ManualClock()
        self.told: list[tuple[str, str, dict[str, str]]] = []
        self.watch = NetworkWatch(self.clock, lambda action, id_, attributes: self.told.append((action, id_, dict(attributes))))
        self.driver = NetworkDriver(
            instance_tag="test",
            data_dir=folder / "data",
            runtime_dir=folder / "run",
            data_path_address="192.0.2.1",
            dns=FakeDNS(),
            make_kernel=lambda: self.kernel,
            watch=self.watch,
        )


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.driver.start()
    await made.driver.attach(SandboxRequest(id="t1", hostname="box"))
    yield made
    await made.driver.close()
    assert list(made.watch.drivers()) == []


async def test_what_vanished_is_made_anew_and_told_once(node: Node) -> None:
    whole = dict(node.kernel.sandboxes)
    for _ in range(3):
        node.kernel.sandboxes["t1"] = msgspec.structs.replace(node.kernel.sandboxes["t1"], links={})
        await node.watch.audit()
        assert node.kernel.sandboxes == whole
    ((action, id_, attributes),) = node.told
    assert (action, id_, attributes["scope"], attributes["repaired"]) == ("drift", "t1", "sandbox t1", "true")
    assert "connect eth0" in attributes["what"]


async def test_what_cannot_be_repaired_is_told_with_its_reason_and_tried_again(node: Node) -> None:
    node.kernel.sandboxes["t1"] = msgspec.structs.replace(node.kernel.sandboxes["t1"], links={})

    def refuse(operation: op.Operation) -> None:
        raise Conflict("the kernel says no")

    node.kernel.refuse = refuse
    await node.watch.audit()
    node.kernel.refuse = lambda _: None
    await node.watch.audit()
    assert [attributes["repaired"] for _, _, attributes in node.told] == ["false", "true"]
    assert node.told[0][2]["error"] == "the kernel says no"


async def test_who_attaches_goes_before_an_audit(node: Node) -> None:
    async with node.driver._lock:
        for _ in range(3):
            assert await node.driver.auditing.audit() is None
        waiting = asyncio.ensure_future(node.driver.auditing.audit())
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting == ()


async def test_it_is_audited_every_few_seconds(node: Node) -> None:
    was_told = asyncio.Event()
    watch = NetworkWatch(node.clock, lambda *_: was_told.set())
    watch.add(node.driver.auditing)
    running = asyncio.ensure_future(watch.run())
    node.kernel.sandboxes["t1"] = msgspec.structs.replace(node.kernel.sandboxes["t1"], links={})
    await asyncio.sleep(0)
    await node.clock.advance(PERIOD_S - 0.1)
    assert not was_told.is_set()
    await node.clock.advance(0.1)
    async with asyncio.timeout(5):
        await was_told.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_lock_knows_who_waits() -> None:
    lock = BusyLock()
    async with lock:
        assert lock.waiting == 0
        waiting = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        assert lock.waiting == 1
    assert await waiting
    assert lock.waiting == 0
    lock.release()


def test_an_interrupted_audit_keeps_its_seals() -> None:
    auditor, kernel = Auditor("test"), InterruptedKernel()
    seals = {"host": {Key(LINK, "eth0"): UP}}
    auditor._seals = dict(seals)
    with pytest.raises(AuditInterrupted):
        auditor.look(kernel, State(), State(), {}, lambda: True)
    assert auditor._seals == seals
    assert kernel.executed == []


class Interrupted:
    """Reads until somebody waits: at once."""

    def read(self, must_end: Callable[[], bool] = lambda: False) -> dict[str, Facts]:
        """Give way."""
        assert must_end()
        raise AuditInterrupted

    def rewritten(self) -> frozenset[str]:
        """Return nothing."""
        return frozenset()

    def restore(self, scope: str, differences: tuple[Difference, ...]) -> None:
        """Restore nothing."""


class InterruptedKernel(FakeKernel):
    """A kernel whose reading is interrupted."""

    def inspector(self) -> Interrupted:  # type: ignore[override]
        """Return what gives way."""
        return Interrupted()
