"""The node's certificate over time and through changes, with a CA in the test's hands and real files."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pyswarm_common import pki, pki_chain
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Unavailable
from pyswarm_common.wire import CERTIFICATE_PATH, CertificateAnswer, CertificateRequest, NodeState
from pyswarm_node.certificate_keeper import LOOK_PERIOD_S, CertificateKeeper
from pyswarm_node.membership import Membership, MembershipStore

HOUR_S = 3600.0
ADDRESS = "10.0.0.1"


class CA:
    """The managers: answers as the authority does, fails when told to, counts what it signed."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.root = pki.new_root(self.now)
        self.trust_pem, self.tail_pem = self.root[0], ""
        self.role = "worker"
        self.failures = 0
        self.asked = 0
        self.at: list[float] = []

    @property
    def now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock.now_ns() / 1e9, datetime.UTC)

    def rotate(self) -> None:
        new = pki.new_root(self.now)
        self.tail_pem = pki_chain.cross_sign(new[0], *self.root, self.now)
        self.trust_pem, self.root = self.root[0] + new[0], new

    def sign(self, request_pem: str, addresses: tuple[str, ...]) -> str:
        identity = pki.NodeIdentity("n", self.role, "c")
        lifetime = datetime.timedelta(hours=10)
        return pki.sign_node_certificate(
            *self.root, request_pem, identity, addresses, self.now, lifetime=lifetime, tail_pem=self.tail_pem
        )

    async def post(self, path: str, body: bytes, timeout_s: float) -> bytes:
        assert path == CERTIFICATE_PATH
        self.asked += 1
        self.at.append(self._clock.monotonic_s())
        if self.failures:
            self.failures -= 1
            raise Unavailable("no manager of the cluster is known")
        request = msgspec.json.decode(body, type=CertificateRequest)
        pem = self.sign(request.signing_request_pem, request.addresses)
        return msgspec.json.encode(CertificateAnswer(role=self.role, certificate_pem=pem, root_certificate_pem=self.trust_pem))

    def state(self, serials: tuple[str, ...] | None = None) -> NodeState:
        return NodeState(
            role=self.role,
            managers=(),
            heartbeat_period_s=1.0,
            issuer_digest=pki.root_digest(self.root[0]),
            trust_pem=self.trust_pem,
            certificate_serials=serials,
        )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ca(clock: ManualClock) -> CA:
    return CA(clock)


@pytest.fixture
def files(tmp_path: Path, ca: CA) -> MembershipStore:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    key = files.private_key()
    files.save_certificate(root_pem=ca.root[0], certificate_pem=ca.sign(pki.new_signing_request(key), (ADDRESS,)), key_pem=key)
    return files


class Node:
    """A keeper that runs, and what it told of changes."""

    def __init__(self, files: MembershipStore, ca: CA, clock: ManualClock, share: float) -> None:
        self.changes = 0
        self.share = share
        self.membership = Membership(
            node_id="n", cluster_id="c", role="worker", advertise_address=ADDRESS, data_path_address=ADDRESS
        )
        self.keeper = CertificateKeeper(files, lambda: self.membership, ca.post, clock, lambda: self.share, self._changed)

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
async def node(files: MembershipStore, ca: CA, clock: ManualClock) -> AsyncIterator[Node]:
    async with running(Node(files, ca, clock, 0.5)) as node:
        yield node


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    task = asyncio.ensure_future(node.keeper.run())
    try:
        yield node
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def fits(files: MembershipStore) -> str:
    """Return the serial of the certificate on disk; raises ssl.SSLError when the key beside it is another's."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate_path, files.key_path)
    return pki_chain.certificate_info(files.certificate_path.read_text()).serial


@pytest.mark.parametrize(("share", "hours"), [(0.0, 5.0), (0.5, 6.5), (1.0, 8.0)])
async def test_it_renews_between_half_and_four_fifths_of_the_life(
    files: MembershipStore, ca: CA, clock: ManualClock, share: float, hours: float
) -> None:
    async with running(Node(files, ca, clock, share)) as node:
        before, key = fits(files), files.private_key()
        await clock.advance(hours * HOUR_S - LOOK_PERIOD_S)
        assert ca.asked == 0
        await clock.advance(2 * LOOK_PERIOD_S)
        assert ca.asked == 1
        assert fits(files) != before
        assert files.private_key() != key, "a new certificate comes with a new key"
        await clock.advance(hours * HOUR_S - 3 * LOOK_PERIOD_S)
        assert ca.asked == 1
        assert node.changes == 1


async def test_a_clock_that_jumps_is_noticed_within_a_minute(
    files: MembershipStore, ca: CA, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Node(files, ca, clock, 0.5)):
        await clock.advance(LOOK_PERIOD_S)
        present = clock.now_ns
        monkeypatch.setattr(clock, "now_ns", lambda: present() + round(7 * HOUR_S * 1e9))
        await clock.advance(LOOK_PERIOD_S + 1)
        assert ca.asked == 1
        monkeypatch.setattr(clock, "now_ns", lambda: present() - round(7 * HOUR_S * 1e9))
        await clock.advance(2 * LOOK_PERIOD_S)
        assert ca.asked == 1


async def test_failures_are_tried_again_at_growing_distances(
    node: Node, files: MembershipStore, ca: CA, clock: ManualClock
) -> None:
    ca.failures, before = 9, fits(files)
    await clock.advance(6.5 * HOUR_S + 5 * LOOK_PERIOD_S)
    assert ca.asked == 10
    pauses = [round(after - at, 3) for at, after in zip(ca.at, ca.at[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] < 15
    assert fits(files) != before


async def test_a_change_of_the_root_is_followed_at_once_and_once(
    node: Node, files: MembershipStore, ca: CA, clock: ManualClock
) -> None:
    old = ca.root[0]
    node.keeper.follow(ca.state())
    await clock.advance(5)
    assert ca.asked == 0
    ca.rotate()
    node.keeper.follow(ca.state())
    assert node.keeper.tls().trust_digest == pki_chain.bundle_digest(old + ca.root[0]), "trust comes before the certificate"
    await clock.advance(5)
    assert (ca.asked, node.keeper.tls().issuer_digest) == (1, pki.root_digest(ca.root[0]))
    assert len(pki_chain.split_bundle(files.certificate_path.read_text())) == 2
    fits(files)
    ca.trust_pem = ca.root[0]
    node.keeper.follow(ca.state())
    await clock.advance(5)
    assert (ca.asked, files.root_path.read_text()) == (1, ca.root[0])
    assert node.keeper.tls().trust_digest == node.keeper.tls().issuer_digest == pki.root_digest(ca.root[0])


async def test_a_ca_that_answers_with_the_former_root_is_not_asked_in_a_circle(node: Node, ca: CA, clock: ManualClock) -> None:
    state = ca.state()
    ca.rotate()
    wanted = msgspec.structs.replace(ca.state(), trust_pem=ca.trust_pem)
    ca.root = pki.new_root(ca.now)  # signs with yet another one
    node.keeper.follow(wanted)
    await clock.advance(60)
    assert 1 < ca.asked < 15
    assert state.issuer_digest != wanted.issuer_digest


async def test_a_certificate_that_was_revoked_is_renewed_once(
    node: Node, files: MembershipStore, ca: CA, clock: ManualClock
) -> None:
    first = fits(files)
    for serials in (None, (first,), ("5e41a1", first)):
        node.keeper.follow(ca.state(serials))
        await clock.advance(1)
    assert ca.asked == 0
    node.keeper.follow(ca.state(()))
    await clock.advance(1)
    assert ca.asked == 1
    node.keeper.follow(ca.state((fits(files),)))
    await clock.advance(60)
    assert ca.asked == 1


async def test_it_returns_when_the_certificate_is_for_the_role(node: Node, ca: CA, clock: ManualClock) -> None:
    waiting = asyncio.ensure_future(node.keeper.ensure_role("manager"))
    await clock.advance(3)
    assert not waiting.done()
    ca.role = "manager"
    await clock.advance(30)
    await waiting
    assert node.keeper.present_role == "manager"
    ca.role = "worker"
    node.keeper.follow(ca.state())
    await clock.advance(5)
    assert node.keeper.present_role == "worker"


async def test_a_new_address_is_put_into_the_certificate(node: Node, files: MembershipStore, ca: CA, clock: ManualClock) -> None:
    node.membership = msgspec.structs.replace(node.membership, advertise_address="10.0.0.9")
    await clock.advance(LOOK_PERIOD_S + 1)
    assert ca.asked == 1
    assert pki_chain.certificate_info(files.certificate_path.read_text()).addresses == ("10.0.0.9", ADDRESS, "127.0.0.1")


async def test_the_description_says_what_etcd_was_started_with(node: Node, ca: CA) -> None:
    digest = node.keeper.trust_digest()
    node.keeper.note_etcd_trust(digest)
    node.keeper.note_etcd_trust(digest)
    assert (node.keeper.tls().etcd_trust_digest, node.changes) == (pki.root_digest(ca.root[0]), 1)
    state = msgspec.structs.replace(ca.state(), is_etcd_restart_due=True)
    node.keeper.follow(state)
    assert node.keeper.is_etcd_restart_due.is_set()
    node.keeper.follow(ca.state())
    assert not node.keeper.is_etcd_restart_due.is_set()


async def test_a_disk_that_is_full_leaves_a_pair_that_fits(
    node: Node, files: MembershipStore, ca: CA, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: str) -> None:
        raise OSError(28, "No space left on device")

    before = fits(files)
    with monkeypatch.context() as patched:
        patched.setattr(files, "save_certificate", refuse)
        await clock.advance(6.5 * HOUR_S + 5 * LOOK_PERIOD_S)
        assert ca.asked > 1
        assert fits(files) == before
    await clock.advance(LOOK_PERIOD_S)
    assert fits(files) != before
