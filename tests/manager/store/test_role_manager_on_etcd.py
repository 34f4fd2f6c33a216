"""The role manager on real members: they enter, are promoted, replaced, removed; also when it dies around each of its steps."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import PermissionDenied, Unavailable
from pyswarm_common.objects import Cluster, ManagerStatus, Node
from pyswarm_common.specs import NodeSpec
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import EnterAnswer, EnterRequest
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.damage import DataLost, MemberRemoved, forget_data
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.role_manager.admission import Admission
from pyswarm_manager.role_manager.loop import RoleManager
from pyswarm_manager.role_manager.members import EtcdMembers, MemberControl, Membership
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.kernel

EtcdCluster = Callable[[int], list[EtcdSettings]]
FOUNDER = "m0"
PATIENCE_S = 60.0


class Killed(Exception):
    """The role manager dies here."""


class MortalControl:
    """A `MemberControl` under which the role manager dies before each of its steps, and again right after it."""

    def __init__(self, control: MemberControl, deaths: list[str]) -> None:
        self._control = control
        self._deaths = deaths

    async def read(self) -> Membership:
        return await self._control.read()

    async def add_learner(self, peer_url: str) -> int:
        return int(await self._step(f"add {peer_url}", self._control.add_learner, peer_url))

    async def promote(self, member_id: int) -> None:
        await self._step(f"promote {member_id}", self._control.promote, member_id)

    async def remove(self, member_id: int) -> None:
        await self._step(f"remove {member_id}", self._control.remove, member_id)

    async def update_peer_url(self, member_id: int, peer_url: str) -> None:
        await self._step(f"update {member_id}", self._control.update_peer_url, member_id, peer_url)

    async def move_leader(self, member_id: int) -> None:
        await self._control.move_leader(member_id)

    async def _step(self, name: str, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        self._die_once(f"before {name}")
        result = await step(*arguments)
        self._die_once(f"after {name}")
        return result

    def _die_once(self, moment: str) -> None:
        if moment not in self._deaths:
            self._deaths.append(moment)
            raise Killed(moment)


class Host:
    """A node's machine: it follows its role in the store as pyswarmd does, with what the test does to it in between."""

    def __init__(self, swarm: "Swarm", settings: EtcdSettings) -> None:
        self.swarm = swarm
        self.settings = settings
        self.store: Store | None = None
        self.admission: Admission | None = None
        self.member: EtcdMember | None = None
        self.was_removed = 0
        self.founds = settings.name == FOUNDER

    @property
    def name(self) -> str:
        return self.settings.name

    async def run(self) -> None:
        """Be a manager whenever the node's role says so."""
        while True:
            if not self.founds:
                await self.swarm.wait_for(lambda: self.swarm.role(self.name) == "manager", for_ever=True)
            try:
                await self._run_once()
            except* (MemberRemoved, DataLost, PermissionDenied, Unavailable) as errors:
                self.was_removed += errors.subgroup(MemberRemoved) is not None
                if errors.subgroup((MemberRemoved, DataLost)) is not None:
                    self.founds = False
                    forget_data(self.settings.data_dir)

    async def _run_once(self) -> None:
        settings = replace(self.settings, other_members={})
        if not self.founds and not settings.bootstrapped_path.exists():
            answer = await self._enter_until("start", has_data=False)
            settings = replace(settings, other_members=answer.other_members, initial_cluster_state="existing")
        async with EtcdMember(settings) as member, EtcdClient(member.socket_path) as client:
            self.member = member
            await wait_first(member.wait_failed(), self._serve(client))

    async def _serve(self, client: EtcdClient) -> None:
        if not self.founds:
            await self._enter_until("member", has_data=True)
        store = Store(EtcdBackend(client), self.swarm.data_keys, self.name, SystemClock())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(store.run())
                await store.wait_loaded()
                self.store = store
                group.create_task(store.run_while_leading(lambda: self._lead(store, EtcdMembers(client))))
        finally:
            self.store = self.admission = None

    async def _lead(self, store: Store, control: MemberControl) -> None:
        if not list(store.view.nodes):
            await store.update(lambda tx: tx.create(Cluster(id="c")))
            founder = Node(
                id=FOUNDER, spec=NodeSpec(role="manager"), role="manager", manager=ManagerStatus(address=f"{FOUNDER}:2377")
            )
            await store.update(lambda tx: tx.create(founder))
        while True:
            mortal = MortalControl(control, self.swarm.deaths) if self.swarm.deaths is not None else control
            roles = RoleManager(store, mortal, SystemClock())
            self.admission = Admission(store, roles, b"keys", SystemClock())
            with suppress(Killed):
                await roles.run()

    async def _enter_until(self, phase: str, *, has_data: bool) -> EnterAnswer:
        request = EnterRequest(address=f"{self.name}:2377", etcd_peer_url=self.settings.peer_url, has_data=has_data)
        while True:
            for host in self.swarm.hosts.values():
                with suppress(Unavailable):
                    answer = await host.admission.enter(self.name, request) if host.admission is not None else None
                    if answer is not None and answer.phase == phase:
                        return answer
            await asyncio.sleep(0.1)


class Swarm:
    """Hosts of one cluster."""

    def __init__(self, settings: list[EtcdSettings], deaths: list[str] | None) -> None:
        self.data_keys = DataKeys.generate()
        self.deaths = deaths
        self.hosts = {each.name: Host(self, each) for each in settings}

    def leader(self) -> Host | None:
        """Return the host that leads."""
        return next((h for h in self.hosts.values() if h.store is not None and h.store.is_leader), None)

    def node(self, name: str) -> Node | None:
        leader = self.leader()
        return leader.store.view.nodes.get(name) if leader is not None and leader.store is not None else None

    def role(self, name: str) -> str:
        node = self.node(name)
        return node.role if node is not None else ""

    def voters(self) -> list[str]:
        """Return the nodes whose members vote, as stored."""
        leader = self.leader()
        nodes = leader.store.view.nodes if leader is not None and leader.store is not None else ()
        return sorted(n.id for n in nodes if n.manager is not None and n.manager.is_voter)

    async def want(self, name: str, role: str) -> None:
        """Store an operator's wish, on whoever leads."""
        while True:
            leader = self.leader()
            with suppress(Unavailable):
                if leader is not None and leader.store is not None:
                    await leader.store.update(
                        lambda tx: tx.update(msgspec.structs.replace(tx.nodes.must_get(name), spec=NodeSpec(role=role)))
                    )
                    return
            await asyncio.sleep(0.02)

    async def add_node(self, name: str) -> None:
        leader = self.leader()
        assert leader is not None
        assert leader.store is not None
        await leader.store.update(lambda tx: tx.create(Node(id=name, spec=NodeSpec(role="manager"))))

    async def wait_for(self, condition: Callable[[], bool], *, for_ever: bool = False) -> None:
        """Wait for something that only looking can tell."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if not for_ever and time.monotonic() > deadline_s:
                raise AssertionError(f"did not happen; voters: {self.voters()}")
            await asyncio.sleep(0.02)

    async def members(self) -> set[str]:
        """Return the names of etcd's members, and check that all vote."""
        leader = self.leader()
        assert leader is not None
        assert leader.member is not None
        async with EtcdClient(leader.member.socket_path) as client:
            members = await client.members()
        assert not any(member.isLearner for member in members)
        return {str(member.name) for member in members}


@asynccontextmanager
async def running_swarm(settings: list[EtcdSettings], deaths: list[str] | None = None) -> AsyncIterator[Swarm]:
    swarm = Swarm(settings, deaths)
    running = [asyncio.create_task(host.run()) for host in swarm.hosts.values() if host.name == FOUNDER]
    await swarm.wait_for(lambda: swarm.voters() == [FOUNDER])
    for name in swarm.hosts:
        if name != FOUNDER:
            await swarm.add_node(name)
            running.append(asyncio.create_task(swarm.hosts[name].run()))
    try:
        await swarm.wait_for(lambda: swarm.voters() == sorted(swarm.hosts))
        # A manager that has not heard yet that it votes would take its demotion for a refusal.
        await swarm.wait_for(lambda: all(host.store is not None for host in swarm.hosts.values()))
        yield swarm
    finally:
        ended = [task for task in running if task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert ended == []


async def test_managers_enter_are_replaced_and_removed(etcd_cluster: EtcdCluster) -> None:
    async with running_swarm(etcd_cluster(3)) as swarm:
        assert await swarm.members() == {"m0", "m1", "m2"}
        await swarm.want("m2", "worker")
        await swarm.wait_for(lambda: swarm.role("m2") == "worker")
        assert await swarm.members() == {"m0", "m1"}
        await swarm.wait_for(lambda: swarm.hosts["m2"].was_removed == 1)

        await swarm.want("m2", "manager")
        await swarm.wait_for(lambda: swarm.voters() == ["m0", "m1", "m2"])
        before = swarm.node("m2")
        member = swarm.hosts["m2"].member
        assert before is not None
        assert before.manager is not None
        assert member is not None
        shutil.rmtree(swarm.hosts["m2"].settings.data_dir)
        member.kill()
        await swarm.wait_for(lambda: is_replaced(before, swarm.node("m2")))
        assert await swarm.members() == {"m0", "m1", "m2"}


def is_replaced(before: Node, after: Node | None) -> bool:
    """Whether the node has another member now, and that one votes."""
    assert before.manager is not None
    is_voter = after is not None and after.manager is not None and after.manager.is_voter
    return (
        is_voter
        and after is not None
        and after.manager is not None
        and after.manager.etcd_member_id != before.manager.etcd_member_id
    )


async def test_a_leader_that_is_demoted_hands_over_and_is_removed(etcd_cluster: EtcdCluster) -> None:
    async with running_swarm(etcd_cluster(3)) as swarm:
        leader = swarm.leader()
        assert leader is not None
        await swarm.want(leader.name, "worker")
        await swarm.wait_for(lambda: swarm.role(leader.name) == "worker")
        new = swarm.leader()
        assert new is not None
        assert new.name != leader.name
        assert await swarm.members() == {"m0", "m1", "m2"} - {leader.name}


async def test_what_a_role_manager_began_before_its_death_is_finished_by_the_next(etcd_cluster: EtcdCluster) -> None:
    deaths: list[str] = []
    async with running_swarm(etcd_cluster(3), deaths) as swarm:
        await swarm.want("m2", "worker")
        await swarm.wait_for(lambda: swarm.role("m2") == "worker")
        assert await swarm.members() == {"m0", "m1"}
    kinds = [" ".join(moment.split()[:2]) for moment in deaths]
    assert sorted(set(kinds)) == ["after add", "after promote", "after remove", "before add", "before promote", "before remove"]
    assert (kinds.count("after add"), kinds.count("after promote"), kinds.count("after remove")) == (2, 2, 1)
