"""What the store demands of a backend, asked of the fake and of a real etcd alike."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from pyswarm_common.errors import InvalidArgument
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.store.backend import Backend, Compacted, Compare, Delete, Event, Put
from pyswarm_manager.store.batch import MAX_BYTES, MAX_CHANGES
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.memory import PAGE_ENTRIES, MemoryBackend


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.kernel)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
        return
    (settings,) = request.getfixturevalue("etcd_cluster")(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        yield EtcdBackend(client)


async def test_a_commit_happens_whole_or_not_at_all(backend: Backend) -> None:
    first = await backend.commit([Compare("a", 0)], [Put("a", b"1"), Put("b", b"1")])
    assert first.succeeded
    refused = await backend.commit([Compare("a", 0)], [Put("a", b"2"), Put("c", b"2")])
    assert not refused.succeeded
    assert refused.revision == first.revision
    second = await backend.commit([Compare("a", first.revision), Compare("c", 0)], [Put("a", b"3"), Delete("b"), Delete("zz")])
    assert second == (True, first.revision + 1)
    page = await backend.read_page("")
    assert [tuple(entry) for entry in page.entries] == [("a", b"3", second.revision)]
    assert (page.revision, page.has_more) == (second.revision, False)


async def test_a_commit_that_changes_nothing_takes_no_revision(backend: Backend) -> None:
    before = await backend.read("a")
    assert (await backend.commit([], [Delete("a")])).succeeded
    after = await backend.read("a")
    assert (before.entry, before.mod_revision) == (None, 0)
    assert after.revision == before.revision


async def test_a_key_twice_in_a_commit_is_refused(backend: Backend) -> None:
    with pytest.raises(InvalidArgument):
        await backend.commit([], [Put("a", b"1"), Put("a", b"2")])


async def test_the_largest_transaction_that_the_writer_makes_is_taken(backend: Backend) -> None:
    operations = [Put(f"k{i:05}", bytes(MAX_BYTES // MAX_CHANGES)) for i in range(MAX_CHANGES)]
    heartbeat, fence = Put("leader", b"1"), Put("fence", b"1")
    assert (await backend.commit([Compare("fence", 0)], [*operations, heartbeat, fence])).succeeded


async def test_a_linearizable_read_sees_what_was_committed(backend: Backend) -> None:
    result = await backend.commit([], [Put("a", b"1")])
    reading = await backend.read("a")
    assert reading.entry == ("a", b"1", result.revision)
    assert reading.revision == result.revision


async def test_pages_show_one_revision(backend: Backend) -> None:
    keys = [f"k{i:05}" for i in range(PAGE_ENTRIES + 50)]
    for start in range(0, len(keys), 100):
        await backend.commit([], [Put(key, b"old") for key in keys[start : start + 100]])
    first = await backend.read_page("")
    assert first.has_more
    await backend.commit([], [Put(keys[-1], b"new"), Delete(keys[-2])])
    second = await backend.read_page(first.entries[-1].key + "\0", first.revision)
    entries = [*first.entries, *second.entries]
    assert [entry.key for entry in entries] == keys
    assert {entry.value for entry in entries} == {b"old"}
    assert not second.has_more


async def test_a_watch_replays_and_follows(backend: Backend) -> None:
    first = (await backend.commit([], [Put("a", b"1"), Put("b", b"1")])).revision
    async with aclosing(backend.watch(first)) as batches:
        seen = list(await anext(batches))
        assert seen == [Event("a", b"1", first), Event("b", b"1", first)]
        await backend.commit([], [Delete("a"), Put("b", b"2"), Delete("absent")])
        assert sorted(await anext(batches)) == [Event("a", None, first + 1), Event("b", b"2", first + 1)]


async def test_a_watch_may_begin_in_the_future(backend: Backend) -> None:
    now = (await backend.read("a")).revision
    async with aclosing(backend.watch(now + 1)) as batches:
        await backend.commit([], [Put("a", b"1")])
        assert list(await anext(batches)) == [Event("a", b"1", now + 1)]


async def test_compacted_history_is_told(backend: Backend) -> None:
    first = (await backend.commit([], [Put("a", b"1")])).revision
    for value in (b"2", b"3", b"4"):
        last = (await backend.commit([], [Put("a", value)])).revision
    await backend.compact(last - 1)
    await backend.compact(last - 1)
    await backend.compact(first)
    with pytest.raises(Compacted):
        await backend.read_page("", first)
    with pytest.raises(Compacted):
        async with aclosing(backend.watch(first)) as batches:
            await anext(batches)
    async with aclosing(backend.watch(last)) as batches:
        assert list(await anext(batches)) == [Event("a", b"4", last)]


async def test_the_only_member_leads_and_can_be_cared_for(backend: Backend) -> None:
    async for status in backend.statuses():
        assert status is not None
        if status.is_leader:
            break
    assert status.raft_term > 0
    assert not status.has_alarm
    assert list(await backend.member_ids()) == [status.member_id]
    await backend.defragment()
    assert list(await backend.alarmed_member_ids()) == []
    await backend.disarm_alarm(status.member_id)
