"""Backups: what is taken is what comes back, whatever is wrong with the file is said, and nothing waits meanwhile."""

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common import pki
from pyswarm_common.clock import ManualClock, SystemClock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, OutOfSequence, PermissionDenied, PyswarmError
from pyswarm_common.objects import (
    AnyObject,
    Cluster,
    Config,
    IssuedCertificate,
    ManagerStatus,
    Network,
    Node,
    NodeStatus,
    Secret,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
)
from pyswarm_common.specs import NodeSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.recovery.backup_format import Backup, BackupHeader, BackupWriter, read_backup, read_header
from pyswarm_manager.recovery.bereavement import next_incarnation
from pyswarm_manager.recovery.forcing import ForcedCluster, Survivor, forsake_others
from pyswarm_manager.recovery.restoring import NewManager, RestoredCluster, restored_cluster, write_restored
from pyswarm_manager.recovery.taking import CONTENT_BYTES_PER_FRAME, backup_pieces, cut_now, take_cut
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster, memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.version_base import restored_version_base

UNLOCK_KEY = "SWMKEY-1-WuYH/IX284+lRcXuoVf38viIDK3HJEKY13MIHX+tTt8"
NOW_NS = 1_800_000_000 * 10**9
FOREVER_NS = NOW_NS * 2
ROOT_PEM, ROOT_KEY_PEM = pki.new_root(datetime.datetime.now(datetime.UTC))
KEY_PEM = pki.new_private_key_pem()
MACHINE = NewManager(
    private_key_pem=KEY_PEM, hostname="new", address="10.1.1.9", data_path_address="10.1.1.9", node_address="10.1.1.9:2377"
)


def certificate(serial: str, *, is_manager: bool, expires_at_ns: int = FOREVER_NS) -> IssuedCertificate:
    return IssuedCertificate(serial=serial, expires_at_ns=expires_at_ns, is_manager=is_manager)


def cluster_object(unlock_key: str = "") -> Cluster:
    return Cluster(id="cluster1", root_certificate_pem=ROOT_PEM, root_key_pem=ROOT_KEY_PEM, unlock_key=unlock_key, incarnation=3)


def manager(name: str) -> Node:
    return Node(
        id=name,
        spec=NodeSpec(role="manager"),
        role="manager",
        status=NodeStatus(state="ready", address="10.1.1.1"),
        manager=ManagerStatus(address="10.1.1.1:2377", etcd_member_id=7, etcd_peer_url="https://10.1.1.1:2380", is_voter=True),
        certificates=(certificate(f"a{name}", is_manager=True), certificate(f"b{name}", is_manager=False)),
    )


def worker(name: str) -> Node:
    return Node(id=name, status=NodeStatus(state="ready", address="10.1.1.2"), certificates=(certificate("c1", is_manager=False),))


def sample_objects(unlock_key: str = "") -> list[AnyObject]:
    running = TaskStatus(state=TaskState.RUNNING, container_id="c")
    return [
        cluster_object(unlock_key),
        manager("m1"),
        manager("m2"),
        worker("w1"),
        Network(id="n1", name="app", subnet="10.0.1.0/24", vni=4097),
        TaskSpec(id="ts1", template_json=b'{"ContainerSpec":{"Image":"nginx"}}'),
        Service(id="s1", name="web", spec_json=b'{"Name":"web"}', task_spec_id="ts1"),
        Task(id="t1", task_spec_id="ts1", service_id="s1", slot=1, node_id="w1", status=running),
        Task(id="t2", task_spec_id="ts1", service_id="s1", slot=2, node_id="m1", status=running),
        Secret(id="k1", name="key", data=b"open sesame", spec_json=b'{"Name":"key","Labels":{}}'),
        Config(id="k2", name="conf", data=bytes(range(256))),
    ]


async def fill(store: Store, objects: list[AnyObject]) -> None:
    for item in objects:
        await store.update(lambda tx, item=item: tx.create(item))  # type: ignore[misc]


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def backup_of(store: Store) -> bytes:
    return await collected(backup_pieces(await take_cut(store, ManualClock())))


async def sample_backup(unlock_key: str = "") -> bytes:
    async with memory_store(SystemClock()) as store:
        await fill(store, sample_objects(unlock_key))
        return await backup_of(store)


def by_id(objects: Any) -> dict[str, AnyObject]:
    return {item.id: item for item in objects}


@pytest.mark.parametrize("unlock_key", ["", UNLOCK_KEY])
async def test_what_was_taken_comes_back_equal(unlock_key: str) -> None:
    async with memory_store(SystemClock()) as store:
        await fill(store, sample_objects(unlock_key))
        data = await backup_of(store)
        view = store.view
        stored: list[AnyObject] = [view.cluster]
        for table in (view.nodes, view.networks, view.services, view.task_specs, view.tasks, view.secrets, view.configs):
            stored += list(table)  # type: ignore[arg-type]
        revision = store.revision
    backup = read_backup(data, unlock_key)
    assert by_id(backup.objects) == by_id(stored)
    assert len(backup.objects) == len(stored)
    assert backup.header.revision == revision
    assert backup.header.encrypted == bool(unlock_key)
    assert (b"nginx" in data) == (not unlock_key)
    assert (b"PRIVATE KEY" in data) == (not unlock_key)
    assert (b"open sesame" in data) == (not unlock_key)


async def test_much_data_in_configs_travels_in_many_frames() -> None:
    async with memory_store(SystemClock()) as store:
        await fill(store, [cluster_object(), *(Config(id=f"c{i}", name=f"c{i}", data=bytes(1_000_000)) for i in range(9))])
        pieces = [piece async for piece in backup_pieces(await take_cut(store, ManualClock()))]
    assert max(map(len, pieces)) <= CONTENT_BYTES_PER_FRAME + 1000
    assert len(read_backup(b"".join(pieces)).objects) == 10


async def test_an_encrypted_backup_opens_with_its_key_alone() -> None:
    data = await sample_backup(UNLOCK_KEY)
    with pytest.raises(PermissionDenied, match="is encrypted"):
        read_backup(data)
    with pytest.raises(PermissionDenied, match="another unlock key"):
        read_backup(data, UNLOCK_KEY[:-1] + "A")
    assert read_backup(data, f" {UNLOCK_KEY}\n").cluster.unlock_key == UNLOCK_KEY
    assert data != await sample_backup(UNLOCK_KEY), "no two backups share a key stream"


@pytest.mark.parametrize("unlock_key", ["", UNLOCK_KEY])
async def test_a_backup_that_is_cut_off_anywhere_is_refused(unlock_key: str) -> None:
    data = await sample_backup(unlock_key)
    for length in range(len(data)):
        with pytest.raises(InvalidArgument):
            read_backup(data[:length], unlock_key)


@pytest.mark.parametrize("unlock_key", ["", UNLOCK_KEY])
async def test_a_backup_with_a_changed_byte_is_refused(unlock_key: str) -> None:
    data = await sample_backup(unlock_key)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(PyswarmError):
            read_backup(bytes(damaged), unlock_key)


async def test_what_follows_a_backup_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="follows its end"):
        read_backup(await sample_backup() + b"x")


@given(st.binary(max_size=300))
def test_any_other_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read_backup(data)


def test_a_later_version_is_named() -> None:
    with pytest.raises(InvalidArgument, match="version 2"):
        read_header(b'{"format":"pyswarm-backup","version":2,"something":"else"}\n')


def test_a_kind_that_is_not_known_is_named() -> None:
    header = BackupHeader(
        format="pyswarm-backup", version=1, cluster_id="c", created_at="", revision=1, version_base=0, counts={}, encrypted=False
    )
    writer = BackupWriter(header)
    data = writer.begin() + writer.frame("wonders", [cluster_object()]) + writer.end()
    with pytest.raises(InvalidArgument, match="holds wonders, which this pyswarm does not know"):
        read_backup(data)


async def test_a_cut_under_a_stream_of_writes_is_one_moment() -> None:
    async with memory_store(SystemClock()) as store:
        await fill(store, [cluster_object()])

        async def write() -> None:
            for index in range(200):  # a pair is made in one update, so a cut has both or none
                pair = [TaskSpec(id=f"{half}{index}") for half in "ab"]
                await store.update(lambda tx, pair=pair: [tx.create(item) for item in pair])  # type: ignore[misc]

        writing = asyncio.ensure_future(write())
        cuts = []
        while not writing.done():
            cuts.append(await backup_of(store))
            await asyncio.sleep(0)
        await writing
    seen = set()
    for data in cuts:
        ids = set(by_id(read_backup(data).objects))
        assert {i[1:] for i in ids if i[0] == "a"} == {i[1:] for i in ids if i[0] == "b"}
        seen.add(len(ids))
    assert len(seen) > 3, "the cuts fell into the stream"


async def test_a_large_backup_holds_up_nothing() -> None:
    async with memory_store(SystemClock()) as store:
        await fill(store, [cluster_object()])
        tables: Any = store.view
        for index in range(100_000):
            status = TaskStatus(state=TaskState.RUNNING, container_id=f"{index:064x}", message="started", at_ns=NOW_NS)
            tables.tasks.put(Task(id=f"{index:025}", task_spec_id="ts", service_id="s", slot=index, node_id="n", status=status), 1)
        longest_s = await longest_step(backup_of(store))
    print(f"longest step {longest_s * 1000:.1f} ms")
    assert longest_s < 0.05


async def longest_step(work: Any) -> float:
    """Return for how long (CPU time: the machine may be busy) the event loop was kept from its next round at most, in seconds."""
    longest_s = 0.0
    task = asyncio.ensure_future(work)
    while not task.done():
        before_s = time.thread_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - before_s)
    await task
    return longest_s


async def restored(unlock_key: str = "") -> tuple[Backup, RestoredCluster]:
    backup = read_backup(await sample_backup(unlock_key), unlock_key)
    return backup, restored_cluster(backup, MACHINE, NOW_NS)


async def test_a_restored_cluster_has_one_new_manager_and_the_others_are_workers() -> None:
    backup, result = await restored()
    nodes = {item.id: item for item in result.objects if isinstance(item, Node)}
    assert [n.id for n in nodes.values() if n.role == "manager" or n.manager or n.spec.role == "manager"] == [result.node.id]
    assert result.node.id not in by_id(backup.objects)
    assert {n.status.state for n in nodes.values()} == {"unknown"}
    assert nodes["m1"].status.address == "10.1.1.1"
    assert {c.serial for c in result.cluster.revoked_certificates} == {"am1", "am2"}
    assert nodes["m1"].certificates == (certificate("bm1", is_manager=False),)
    assert result.cluster.incarnation > backup.cluster.incarnation
    identity = pki.identity_of(result.certificate_pem.encode())
    assert identity == pki.NodeIdentity(node_id=result.node.id, role="manager", cluster_id="cluster1")
    assert [node.id for node in result.former_managers] == ["m1", "m2"]
    tasks = {item.id: item for item in result.objects if isinstance(item, Task)}
    assert tasks == {item.id: item for item in backup.objects if isinstance(item, Task)}, "what runs on nodes goes on"


async def test_a_restored_store_refuses_version_indexes_of_the_former_one() -> None:
    clock = SystemClock()
    async with memory_store(clock) as store:
        await fill(store, sample_objects())
        former_index = store.version_index(store.view.services.named("web")[0])
        data = await backup_of(store)
    result = restored_cluster(read_backup(data), MACHINE, clock.now_ns())
    log = MemoryCluster()
    assert await write_restored(MemoryBackend(log), log.data_keys, result) >= 2
    async with memory_store(clock, log) as store:
        service = store.view.services.named("web")[0]
        assert store.version_index(service) > former_index
        assert store.version_index(service) < 2**53, "clients in JavaScript know no larger numbers"
        with pytest.raises(OutOfSequence):
            await store.update(lambda tx: tx.update(service, expected_index=former_index))
        await store.update(lambda tx: tx.update(service, expected_index=store.version_index(service)))
        second = await backup_of(store)
    assert read_backup(second).header.version_base == result.version_base


async def test_nothing_is_restored_into_a_store_that_holds_something() -> None:
    _, result = await restored()
    log = MemoryCluster()
    await write_restored(MemoryBackend(log), log.data_keys, result)
    count = log.commit_count
    with pytest.raises(Conflict):
        await write_restored(MemoryBackend(log), log.data_keys, result)
    assert log.commit_count == count


async def test_many_objects_are_written_in_transactions_that_etcd_takes() -> None:
    backup, _ = await restored()
    many = tuple(TaskSpec(id=f"big{index}", template_json=b"x" * 20_000) for index in range(250))
    backup = msgspec.structs.replace(backup, objects=(*backup.objects, *many))
    log = MemoryCluster()
    sizes: list[int] = []

    class CountingBackend(MemoryBackend):
        async def commit(self, compares: Any, operations: Any) -> Any:
            sizes.append(sum(len(put.value) for put in operations))
            assert len(operations) <= 100
            return await super().commit(compares, operations)

    await write_restored(CountingBackend(log), log.data_keys, restored_cluster(backup, MACHINE, NOW_NS))
    assert max(sizes) <= 1 << 20
    async with memory_store(SystemClock(), log) as store:
        assert len(store.view.task_specs) == 251


def test_what_was_restored_twice_from_one_backup_differs() -> None:
    later_ns = NOW_NS + 3600 * 10**9
    assert next_incarnation(3, NOW_NS) < next_incarnation(3, later_ns)
    assert next_incarnation(NOW_NS, NOW_NS) == NOW_NS + 1, "a clock that went back does not set the incarnation back"
    assert restored_version_base(0, NOW_NS) < restored_version_base(0, later_ns)
    assert restored_version_base(7 << 32, 0) == 8 << 32


FORCED = ForcedCluster(incarnation=1_900_000_000)
SURVIVOR = Survivor("m1", "10.1.1.5:2377", "https://10.1.1.5:2380")


def certify(_: Cluster) -> IssuedCertificate:
    return certificate("new", is_manager=True)


async def forced(log: MemoryCluster, survivor: Survivor = SURVIVOR) -> Cluster:
    return await forsake_others(
        MemoryBackend(log), log.data_keys, survivor, FORCED, lambda _: certificate("new", is_manager=True), NOW_NS
    )


async def test_a_forced_new_cluster_leaves_its_manager_alone_with_all_data() -> None:
    log = MemoryCluster()
    async with memory_store(SystemClock(), log, node_id="m2") as store:
        await fill(store, sample_objects())
        before, index = by_id(read_backup(await backup_of(store)).objects), store.version_index(store.view.services.named("web")[0])
    await forced(log)
    async with memory_store(SystemClock(), log, node_id="m1") as store:
        after = by_id(read_backup(await backup_of(store)).objects)
        service = store.view.services.named("web")[0]
        with pytest.raises(OutOfSequence):
            await store.update(lambda tx: tx.update(service, expected_index=index))
    changed = {i for i in before if before[i] != after[i]}
    assert changed == {"cluster1", "m1", "m2"}
    assert [n.id for n in after.values() if isinstance(n, Node) and n.role == "manager"] == ["m1"]
    own, cluster = after["m1"], after["cluster1"]
    assert isinstance(own, Node)
    assert isinstance(cluster, Cluster)
    assert own.manager is not None
    assert (own.manager.address, own.manager.etcd_peer_url) == ("10.1.1.5:2377", "https://10.1.1.5:2380")
    assert {c.serial for c in cluster.revoked_certificates} == {"am2"}
    assert {c.serial for c in own.certificates} == {"am1", "bm1", "new"}, "the survivor's stay valid"
    assert cluster.incarnation >= FORCED.incarnation


@pytest.mark.parametrize("repeat", [forced, lambda log: forced(log, Survivor("m2", "", ""))])
async def test_a_forced_new_cluster_is_made_once(repeat: Callable[[MemoryCluster], Any]) -> None:
    log = MemoryCluster()
    async with memory_store(SystemClock(), log) as store:
        await fill(store, sample_objects())
    first = await forced(log)
    count = log.commit_count
    assert await repeat(log) == first
    assert log.commit_count == count


async def test_a_node_that_the_data_does_not_know_forces_nothing() -> None:
    log = MemoryCluster()
    async with memory_store(SystemClock(), log) as store:
        await fill(store, sample_objects())
    count = log.commit_count
    with pytest.raises(NotFound, match="does not know node stranger"):
        await forced(log, Survivor("stranger", "", ""))
    assert log.commit_count == count


async def test_a_cut_needs_no_leader() -> None:
    log = MemoryCluster()
    async with memory_store(SystemClock(), log) as store:
        await fill(store, sample_objects())
        log.elect(0)
        async with asyncio.timeout(5):
            assert by_id(read_backup(await backup_of(store)).objects) == by_id(
                item for objects in cut_now(store, 0).objects.values() for item in objects
            )
