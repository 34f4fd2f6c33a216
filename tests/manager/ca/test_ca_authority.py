"""The CA on a store in memory: joining, renewing, what is kept for revocation, and how often strangers may knock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from cryptography import x509

from pyswarm_common import pki, pki_chain
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, ManualClock
from pyswarm_common.errors import InvalidArgument, PermissionDenied, ResourceExhausted
from pyswarm_common.objects import Cluster, IssuedCertificate, Node
from pyswarm_common.wire import CertificateRequest, JoinRequest
from pyswarm_manager.ca.attempt_limit import BURST, MOST_ADDRESSES, REFILL_PER_S, AttemptLimit
from pyswarm_manager.ca.authority import CertificateAuthority
from pyswarm_manager.ca.bootstrap import new_cluster
from pyswarm_manager.ca.revocation import RevocationFileKeeper, revocation_file, revoke_manager_certificates
from pyswarm_manager.ca.rotation.start import parse_ca_config, with_ca_request
from pyswarm_manager.ca.signing import trusted_roots
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store

SHORT_LIFE_S = 20.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[Store]:
    async with memory_store(clock) as store:
        new = new_cluster(
            private_key_pem=pki.new_private_key_pem(),
            hostname="m",
            address="10.0.0.1",
            data_path_address="10.0.0.1",
            node_address="10.0.0.1:2377",
            settings={},
            clock=clock,
        )
        await store.update(new.store)
        yield store


@pytest.fixture
def authority(store: Store, clock: ManualClock) -> CertificateAuthority:
    return CertificateAuthority(store, clock)


def join_request(token: str) -> JoinRequest:
    return JoinRequest(token=token, signing_request_pem=pki.new_signing_request(pki.new_private_key_pem()))


def request(*addresses: str) -> CertificateRequest:
    return CertificateRequest(signing_request_pem=pki.new_signing_request(pki.new_private_key_pem()), addresses=addresses)


async def set_role(store: Store, node_id: str, role: str) -> None:
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.nodes.must_get(node_id), role=role)))


@pytest.mark.parametrize("role", ["worker", "manager"])
async def test_each_token_gives_its_role(store: Store, authority: CertificateAuthority, role: str) -> None:
    token = getattr(store.view.cluster, f"{role}_join_token")
    answer = await authority.join(join_request(token), "10.0.0.2")
    assert answer.role == pki.identity_of(answer.certificate_pem.encode()).role == role
    node = store.view.nodes.must_get(answer.node_id)
    assert (node.role, node.spec.role, node.manager) == (role, role, None)
    serial = pki_chain.certificate_info(answer.certificate_pem).serial
    assert [(c.serial, c.is_manager) for c in node.certificates] == [(serial, role == "manager")]


async def test_a_key_that_joined_as_a_worker_is_no_manager_though_the_token_of_managers_comes(
    store: Store, authority: CertificateAuthority
) -> None:
    cluster, asked = store.view.cluster, join_request(store.view.cluster.worker_join_token)
    worker = await authority.join(asked, "10.0.0.2")
    manager = await authority.join(msgspec.structs.replace(asked, token=cluster.manager_join_token), "10.0.0.2")
    assert worker.node_id != manager.node_id
    again = await authority.join(msgspec.structs.replace(asked, token=cluster.manager_join_token), "10.0.0.2")
    assert again.node_id == manager.node_id


async def test_a_renewal_follows_the_store_and_not_the_present_certificate(store: Store, authority: CertificateAuthority) -> None:
    answer = await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.2")
    claims_to_manage = pki.NodeIdentity(answer.node_id, "manager", answer.cluster_id)
    renewed = await authority.renew(claims_to_manage, request())
    assert renewed.role == pki.identity_of(renewed.certificate_pem.encode()).role == "worker"
    await set_role(store, answer.node_id, "manager")
    promoted = await authority.renew(pki.NodeIdentity(answer.node_id, "worker", answer.cluster_id), request("10.0.0.9", "fd00::1"))
    assert pki.identity_of(promoted.certificate_pem.encode()).role == "manager"
    assert pki_chain.certificate_info(promoted.certificate_pem).addresses == ("10.0.0.9", "fd00::1")
    assert [c.is_manager for c in store.view.nodes.must_get(answer.node_id).certificates] == [False, False, True]


async def test_a_removed_node_gets_nothing(store: Store, authority: CertificateAuthority) -> None:
    answer = await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.2")
    await store.update(lambda tx: tx.delete(Node, answer.node_id))
    with pytest.raises(PermissionDenied, match="was removed"):
        await authority.renew(pki.NodeIdentity(answer.node_id, "worker", answer.cluster_id), request())


@pytest.mark.parametrize("addresses", [("no address",), tuple(f"10.0.0.{i}" for i in range(17))])
async def test_a_bad_request_is_refused(store: Store, authority: CertificateAuthority, addresses: tuple[str, ...]) -> None:
    answer = await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.2")
    identity = pki.NodeIdentity(answer.node_id, "worker", answer.cluster_id)
    with pytest.raises(InvalidArgument):
        await authority.renew(identity, request(*addresses))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        await authority.renew(identity, CertificateRequest(signing_request_pem="x"))


async def test_during_a_change_of_the_root_nodes_get_the_new_one_and_what_leads_to_it(
    store: Store, authority: CertificateAuthority, clock: ManualClock
) -> None:
    before = store.view.cluster
    answer = await authority.join(join_request(before.worker_join_token), "10.0.0.2")
    asked = parse_ca_config({"CAConfig": {"ForceRotate": 1}}, clock.now_ns())
    await store.update(lambda tx: tx.update(with_ca_request(tx.cluster, asked)))
    renewed = await authority.renew(pki.NodeIdentity(answer.node_id, "worker", answer.cluster_id), request())
    rotation = store.view.cluster.root_rotation
    assert rotation is not None
    assert pki_chain.issuer_digest(renewed.certificate_pem, renewed.root_certificate_pem) == pki.root_digest(
        rotation.root_certificate_pem
    )
    assert pki_chain.split_bundle(renewed.certificate_pem)[1:] == (rotation.cross_certificate_pem,)
    assert renewed.root_certificate_pem == trusted_roots(store.view.cluster)
    joined = await authority.join(join_request(before.worker_join_token), "10.0.0.3")
    assert joined.root_certificate_pem == trusted_roots(store.view.cluster), "the token pins the old root, and trusts both then"


async def test_what_was_signed_while_the_root_changed_is_signed_again(store: Store, clock: ManualClock) -> None:
    """The change comes between signing and noting: the certificate of the former root must not get out."""
    asked = parse_ca_config({"CAConfig": {"ForceRotate": 1}}, clock.now_ns())

    class ChangingStore:
        view = property(lambda _: store.view)
        has_changed = False

        async def update(self, function):  # type: ignore[no-untyped-def]
            if not self.has_changed:
                self.has_changed = True
                await store.update(lambda tx: tx.update(with_ca_request(tx.cluster, asked)))
            return await store.update(function)

    authority = CertificateAuthority(ChangingStore(), clock)  # type: ignore[arg-type]
    answer = await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.2")
    rotation = store.view.cluster.root_rotation
    assert rotation is not None
    assert pki_chain.issuer_digest(answer.certificate_pem, rotation.root_certificate_pem)
    assert len(store.view.nodes.must_get(answer.node_id).certificates) == 1


async def test_certificates_live_as_long_as_the_cluster_says_and_expired_ones_are_forgotten(
    store: Store, authority: CertificateAuthority, clock: ManualClock
) -> None:
    await shorten_life(store)
    answer = await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.2")
    info = pki_chain.certificate_info(answer.certificate_pem)
    assert abs(info.not_after.timestamp() - clock.now_ns() / NANOSECONDS_PER_SECOND - SHORT_LIFE_S) <= 1
    await clock.advance(SHORT_LIFE_S + 1)
    await authority.renew(pki.NodeIdentity(answer.node_id, "worker", answer.cluster_id), request())
    assert info.serial not in [c.serial for c in store.view.nodes.must_get(answer.node_id).certificates]


async def shorten_life(store: Store) -> None:
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, node_certificate_lifetime_s=SHORT_LIFE_S)))


def listed(cluster: Cluster, clock: ManualClock) -> list[str]:
    return [f"{entry.serial_number:x}" for entry in x509.load_pem_x509_crl(revocation_file(cluster, clock.now_ns()).encode())]


async def test_a_manager_that_is_one_no_more_is_listed_until_its_certificates_expire(
    store: Store, authority: CertificateAuthority, clock: ManualClock
) -> None:
    await shorten_life(store)
    answer = await authority.join(join_request(store.view.cluster.manager_join_token), "10.0.0.2")
    await set_role(store, answer.node_id, "worker")
    await authority.renew(pki.NodeIdentity(answer.node_id, "manager", answer.cluster_id), request())
    assert listed(store.view.cluster, clock) == []
    node = await store.update(lambda tx: revoke_manager_certificates(tx, tx.nodes.must_get(answer.node_id)))
    serial = pki_chain.certificate_info(answer.certificate_pem).serial
    assert listed(store.view.cluster, clock) == [serial]
    assert [c.is_manager for c in node.certificates] == [False]
    assert store.view.nodes.must_get(answer.node_id) == node
    await clock.advance(SHORT_LIFE_S + 1)
    assert listed(store.view.cluster, clock) == []
    founder = next(n for n in store.view.nodes if n.id != answer.node_id)
    await store.update(lambda tx: revoke_manager_certificates(tx, founder))
    assert serial not in [c.serial for c in store.view.cluster.revoked_certificates]


async def test_the_founders_own_certificate_can_be_revoked(store: Store, clock: ManualClock) -> None:
    (founder,) = store.view.nodes
    await store.update(lambda tx: (tx.delete(Node, founder.id), revoke_manager_certificates(tx, founder)))
    assert listed(store.view.cluster, clock) == [founder.certificates[0].serial]
    assert founder.certificates[0].is_manager


async def test_the_list_is_written_when_it_changes_and_again_after_a_failure(store: Store, clock: ManualClock) -> None:
    written: list[int] = []
    failures = [OSError("the disk is full")]

    def write(pem: str) -> None:
        if failures:
            raise failures.pop()
        written.append(len(list(x509.load_pem_x509_crl(pem.encode()))))

    keepers_clock = ManualClock()
    running = asyncio.ensure_future(RevocationFileKeeper(store, keepers_clock, write).run())
    await keepers_clock.advance(10)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, task_history_limit=3)))
    await keepers_clock.advance(1)
    expires_at_ns = keepers_clock.now_ns() + 100 * NANOSECONDS_PER_SECOND
    certificate = IssuedCertificate(serial="ab", expires_at_ns=expires_at_ns, is_manager=True)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, revoked_certificates=(certificate,))))
    await keepers_clock.advance(2 * 3600)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert written == [0, 1, 0]


async def test_who_fails_too_often_is_told_when_to_come_back(
    store: Store, authority: CertificateAuthority, clock: ManualClock
) -> None:
    wrong = join_request(pki.new_join_token(store.view.cluster.root_certificate_pem))
    for _ in range(round(BURST)):
        with pytest.raises(PermissionDenied):
            await authority.join(wrong, "10.0.0.66")
    with pytest.raises(ResourceExhausted, match=r"too many attempts to join from 10\.0\.0\.66: try again in 1 s") as refused:
        await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.66")
    assert refused.value.status_code == 429
    await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.67")
    await clock.advance(1 / REFILL_PER_S)
    await authority.join(join_request(store.view.cluster.worker_join_token), "10.0.0.66")


async def test_joins_that_succeed_do_not_count(store: Store, authority: CertificateAuthority) -> None:
    asked = join_request(store.view.cluster.worker_join_token)
    for _ in range(round(BURST) + 1):
        authority.note_attempt("10.0.0.2")
        await authority.join(asked, "10.0.0.2")


def test_ipv6_addresses_count_by_their_network_and_memory_is_bounded(clock: ManualClock) -> None:
    limit = AttemptLimit(clock)
    for i in range(round(BURST)):
        limit.take(f"2001:db8::{i:x}")
    with pytest.raises(ResourceExhausted):
        limit.take("2001:db8::ffff")
    limit.take("2001:db8:0:1::1")
    for i in range(MOST_ADDRESSES):
        limit.take(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    limit.take("2001:db8::1")
