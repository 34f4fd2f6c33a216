"""What the role manager demands of etcd's membership, asked of the fake and of a real etcd alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from pyswarm_common.errors import Unavailable
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.role_manager.members import EtcdMembers, Member, MemberControl
from pyswarm_manager.role_manager.memory import MemoryMembers

NEW_URL = "https://127.0.0.1:1"
OTHER_URL = "https://127.0.0.1:2"


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.kernel)])
async def control(request: pytest.FixtureRequest) -> AsyncIterator[MemberControl]:
    if request.param == "memory":
        yield MemoryMembers("m0")
        return
    (settings,) = request.getfixturevalue("etcd_cluster")(1)
    async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
        yield EtcdMembers(client)


async def others(control: MemberControl) -> list[Member]:
    membership = await control.read()
    return [member for member in membership.members if member.id != membership.own_id]


async def add_again(control: MemberControl, peer_url: str) -> int:
    """Announce a member at the address of one that was removed: etcd makes ids of address and second, and refuses used ones."""
    for _ in range(30):
        with suppress(Unavailable):
            return await control.add_learner(peer_url)
        await asyncio.sleep(0.1)
    raise AssertionError("still refused")


async def test_a_lone_member_leads(control: MemberControl) -> None:
    membership = await control.read()
    (own,) = membership.members
    assert (own.id, own.name, own.is_started, own.is_learner) == (membership.own_id, "m0", True, False)
    assert len(own.peer_urls) == 1
    assert membership.leader_id == own.id


async def test_an_announced_member_has_no_name_and_does_not_vote(control: MemberControl) -> None:
    member_id = await control.add_learner(NEW_URL)
    assert await others(control) == [Member(member_id, "", (NEW_URL,), is_learner=True)]
    with pytest.raises(Unavailable, match="in sync with leader"):
        await control.promote(member_id)
    with pytest.raises(Unavailable, match="too many learner members"):
        await control.add_learner(OTHER_URL)
    with pytest.raises(Unavailable):
        await control.move_leader(member_id)


async def test_an_announced_member_can_be_moved_and_removed(control: MemberControl) -> None:
    member_id = await control.add_learner(NEW_URL)
    await control.update_peer_url(member_id, OTHER_URL)
    assert [member.peer_urls for member in await others(control)] == [(OTHER_URL,)]
    await control.remove(member_id)
    assert await others(control) == []
    with pytest.raises(Unavailable):
        await control.remove(member_id)
    with pytest.raises(Unavailable):
        await control.promote(member_id)
    assert await add_again(control, OTHER_URL) != member_id


async def test_an_address_belongs_to_one_member(control: MemberControl) -> None:
    (own,) = (await control.read()).members
    with pytest.raises(Unavailable, match="already exist"):
        await control.add_learner(own.peer_urls[0])
    member_id = await control.add_learner(NEW_URL)
    with pytest.raises(Unavailable, match="already exist"):
        await control.update_peer_url(member_id, own.peer_urls[0])


async def test_the_last_voter_cannot_be_removed(control: MemberControl) -> None:
    membership = await control.read()
    with pytest.raises(Unavailable):
        await control.remove(membership.own_id)
    assert await control.read() == membership
