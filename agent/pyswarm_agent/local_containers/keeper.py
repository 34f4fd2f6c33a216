"""`LocalContainers`: makes, starts, stops and removes this node's single containers, and starts them again by their policies.

What a crash leaves, the next `run` puts right. A record is written before the container's volumes and the runtime's record, and
deleted before that one, or last of all when the volumes go too, which it then says: whatever was cut short is removed. Containers
that ran go on and are followed again; what ended meanwhile is treated as if it had ended now.

Containers of tasks may be stopped and removed here too, as in Docker: their orchestrator then replaces them.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore, parse_reference
from pyswarm_agent.local_containers.connections import Connections
from pyswarm_agent.local_containers.create_body import Resources
from pyswarm_agent.local_containers.creation import build, decode_body
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.limits import with_resources
from pyswarm_agent.local_containers.mounts import asked_mounts
from pyswarm_agent.local_containers.names import check_name, name_conflict, random_name
from pyswarm_agent.local_containers.network import LocalNetwork
from pyswarm_agent.local_containers.records import CONTAINER_PREFIX, LocalContainer
from pyswarm_agent.local_containers.refusals import check_platform, refuse_to_update
from pyswarm_agent.local_containers.restart_policy import RestartProgress, parse_policy
from pyswarm_agent.local_containers.runs import Runs
from pyswarm_agent.local_containers.store import LocalContainerStore
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_agent.persistence import failed_of
from pyswarm_agent.runtime.interface import Runtime, no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_agent.volumes.mounting import ContainerMounts, volume_names
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, PyswarmError
from pyswarm_common.failpoints import failpoint
from pyswarm_common.ids import new_container_id

SIGKILL = 9


class LocalContainers:
    """This node's single containers. `run` must run; what it needs done in the background it does there."""

    def __init__(
        self,
        *,
        images: ImageStore,
        runtime: Runtime,
        mounts: ContainerMounts,
        network: LocalNetwork,
        health: HealthMonitors,
        folder: Path,
        clock: Clock,
        events: EventBus,
        hostname: Callable[[], str],
        choices: random.Random | None = None,
        networks: NodeNetworks | None = None,
    ) -> None:
        self._images = images
        self._runtime = runtime
        self._mounts = mounts
        self._store = LocalContainerStore(folder)
        self._events = events
        self._hostname = hostname
        self._choices = choices or random.SystemRandom()
        self._held: dict[str, Held] = {}
        self._new_names: dict[str, str] = {}
        self._health = health
        networks = NodeNetworks(folder.with_name("node-networks")) if networks is None else networks
        self.connections = Connections(networks, network, runtime, clock, events, self._held, self._save)
        self._runs = Runs(runtime, network, health, clock, self._save, self._remove_ended)

    async def run(self) -> None:
        """Take up what an earlier daemon left, then follow all containers until cancelled; they go on."""
        await self._runs.run(self._adopt)

    async def wait_running(self) -> None:
        """Return once what an earlier daemon left is taken up."""
        await self._runs.is_running.wait()

    def get(self, container_id: str) -> Held | None:
        """Return a local container, None when there is none of this id (it may be a task's)."""
        return self._held.get(container_id)

    def find(self, reference: str) -> ContainerRecord:
        """Find any container of this node by id, name or beginning of an id. Raises NotFound, Conflict."""
        return find_container(self._runtime.list(), reference)

    async def create(self, name: str, posted: Mapping[str, Any], platform: str = "") -> str:
        """Make a container from a create body and return its id. Raises NotFound (no such image), Conflict (its name is taken) …

        `platform`: which the image must be for, as `linux/amd64`; "" for any.
        """
        body = decode_body(posted)
        image = self._images.get(body.image) if body.image else None
        if image is None:
            raise NotFound(f"No such image: {parse_reference(body.image).familiar}" if body.image else "No such image: ")
        check_platform(platform, body.image, image.os, image.architecture)
        container_id = new_container_id()
        name = check_name(name) if name else random_name(self._taken_names(), self._choices)
        self._take_name(name, container_id)
        try:
            container, config = build(body, posted, image, container_id=container_id, name=name, hostname=self._hostname())
            container = self.connections.resolved(self._with_joined_id(container))
            declared = [*(body.volumes or {}), *image.config.volumes]
            layers = tuple(str(path) for path in self._images.layer_paths(image))
            asked = asked_mounts(body)
            held = Held(msgspec.structs.replace(container, volumes=volume_names(asked, declared, container_id)))
            await self._save(held)
            failpoint("local/saved")
            try:
                async with self._mounts.prepared(asked, declared, container_id) as mounts:
                    await self._runtime.create(msgspec.structs.replace(config, mounts=mounts, layer_paths=layers))
            except BaseException:
                await failed_of(("take back a container", partial(self._take_away, container_id, with_volumes=True)))
                raise
            self._held[container_id] = held
        finally:
            self._new_names.pop(name, None)
        return container_id

    async def start(self, container_id: str) -> bool:
        """Start a container; False when it runs already. Raises what kept it from starting."""
        held, record = self._held.get(container_id), self._need(container_id)
        if record.state == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if held is None:
            if record.is_live:
                return False
            raise Conflict(f"container {container_id} belongs to a task, which the cluster starts: it cannot be started by hand")
        async with held.lock:
            if held.is_removed:
                raise NotFound(f"No such container: {container_id}")
            if self._need(container_id).is_live or held.is_restarting:
                return False
            changes: dict[str, Any] = {"is_stopped_by_hand": False, "was_started": True, "restarts": RestartProgress()}
            await self._save(held, **changes, start_error="", start_exit_code=0)
            try:
                await self._runs.begin(held)
            except (PyswarmError, OSError) as error:
                await self._save(held, start_error=str(error), start_exit_code=getattr(error, "exit_code", 128))
                if held.container.auto_remove:
                    self._runs.spawn(self._remove_ended(held))
                raise
            self._runs.follow(held)
        return True

    async def stop(self, container_id: str, grace_s: float | None = None) -> bool:
        """Stop a container, for good; False when it does not run."""
        held, record = self._held.get(container_id), self._need(container_id)
        if held is None:
            if record.is_live:
                await self._runtime.stop(container_id, grace_s=grace_s)
            return record.is_live
        async with held.lock:
            is_live = self._need(container_id).is_live
            if not is_live and not held.is_restarting:
                return False
            await self._save(held, is_stopped_by_hand=True)
            held.wake.set()
        if is_live:
            await self._runtime.stop(container_id, grace_s=grace_s)
        await _wait_over(held)
        return True

    async def restart(self, container_id: str, grace_s: float | None = None) -> None:
        """Stop a container if it runs, and start it."""
        held = self._held.get(container_id)
        if held is None:
            raise Conflict(f"container {container_id} belongs to a task: to restart it, update its service with --force")
        held.is_being_replaced = True
        try:
            async with held.lock:
                is_live = self._need(container_id).is_live
                held.wake.set()
            if is_live:
                await self._runtime.stop(container_id, grace_s=grace_s)
            await _wait_over(held)
        finally:
            held.is_being_replaced = False
        await self.start(container_id)
        self._events.observe_container("restart", self._need(container_id), {})

    async def kill(self, container_id: str, signal: str) -> None:
        """Send a signal; SIGKILL and the stop signal count as a stop by hand. Raises Conflict when it does not run."""
        number = signal_number(signal)
        held, record = self._held.get(container_id), self._need(container_id)
        if not record.is_live:
            raise Conflict(f"Cannot kill container: {container_id}: Container {container_id} is not running")
        if held is not None and number in (SIGKILL, signal_number(record.config.stop_signal)):
            async with held.lock:
                await self._save(held, is_stopped_by_hand=True)
        await self._runtime.kill(container_id, signal)
        if held is not None and number == SIGKILL:
            await _wait_over(held)

    async def remove(self, container_id: str, *, force: bool = False, with_volumes: bool = False) -> None:
        """Remove a container, with its anonymous volumes if asked. Raises Conflict when it runs and this is not forced."""
        held, record = self._held.get(container_id), self._need(container_id)
        is_restarting = held is not None and held.is_restarting
        if (record.is_live or is_restarting) and not force:
            state = "paused" if record.state == "paused" else "restarting" if is_restarting else "running"
            hint = f"{'Unpause and then stop' if state == 'paused' else 'Stop'} the container before attempting removal"
            raise Conflict(f"You cannot remove a {state} container {container_id}. {hint} or force remove")
        if held is None:
            await self._runtime.remove(container_id)
            await self._mounts.discard(container_id)
        else:
            await self._remove(held, with_volumes=with_volumes)

    async def rename(self, container_id: str, name: str) -> None:
        """Give a container another name. Raises Conflict, InvalidArgument."""
        held = self._held.get(container_id)
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        name = check_name(name)
        if held is None:
            raise Conflict(f"container {container_id} belongs to a task, whose name it has: it cannot be renamed")
        async with held.lock:
            if name == held.container.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            self._take_name(name, container_id)
            try:
                await self._save(held, name=name)
                await self._runtime.configure(msgspec.structs.replace(self._need(container_id).config, name=name))
                await self.connections.renamed(held)
            finally:
                self._new_names.pop(name, None)

    async def update(self, container_id: str, changed: Resources, posted: Mapping[str, Any]) -> list[str]:
        """Change restart policy and limits, those of a container that runs at once; return warnings. Raises what refuses them."""
        held = self._held.get(container_id)
        if held is None:
            raise Conflict(f"container {container_id} belongs to a task: update its service instead")
        refuse_to_update(posted)
        asked = changed.restart_policy
        policy = parse_policy(asked.name, asked.maximum_retry_count) if asked is not None and asked.name else None
        if policy is not None and policy.name != "no" and held.container.auto_remove:
            raise InvalidArgument("Restart policy cannot be updated because AutoRemove is enabled for the container")
        async with held.lock:
            config = with_resources(self._need(container_id).config, changed)
            await self._runtime.configure(config)
            shown = {key: value for key, value in posted.items() if value}
            host_config = {**held.container.host_config, **shown}
            await self._save(held, restart_policy=policy or held.container.restart_policy, host_config=host_config)
        self._events.observe_container("update", self._need(container_id), {})
        return self._runtime.warnings_about(config)

    async def _adopt(self) -> None:
        for container in await asyncio.to_thread(self._store.load):
            record = self._runtime.get(container.id)
            if record is None or container.is_going:
                await failed_of((f"remove container {container.id}", partial(self._take_away, container.id, with_volumes=True)))
            else:
                self._held[container.id] = Held(_mended(container, record))
        for record in self._runtime.list():
            if record.config.keeps_layer and record.config.id not in self._held:
                await failed_of((f"remove container {record.config.id}", partial(self._runtime.remove, record.config.id)))
        for held in self._held.values():
            config = self._need(held.container.id).config
            if config.name != held.container.name:
                await self._runtime.configure(msgspec.structs.replace(config, name=held.container.name))
        await self._runs.take_up(list(self._held.values()))
        await self.connections.finish_changes()

    async def _remove_ended(self, held: Held) -> None:
        await failed_of((f"remove container {held.container.id}", lambda: self._remove(held, with_volumes=True)))

    async def _remove(self, held: Held, *, with_volumes: bool) -> None:
        container_id = held.container.id
        held.is_removed = True
        held.wake.set()
        async with held.lock:
            if container_id not in self._held:
                return
            await self._runs.release(held)
            if with_volumes:
                await self._save(held, is_going=True)
            else:
                await asyncio.to_thread(self._store.delete, container_id)
            failpoint("local/forgotten")
            # The name is free before anybody hears of the end.
            del self._held[container_id]
            self._health.forget(container_id)
            await self._take_away(container_id, with_volumes=with_volumes)

    async def _take_away(self, container_id: str, *, with_volumes: bool) -> None:
        """Remove what there is of a container; its record goes last when that tells that its volumes go too."""
        await self._runtime.remove(container_id)
        if with_volumes:
            await self._mounts.discard(container_id)
            await asyncio.to_thread(self._store.delete, container_id)

    async def _save(self, held: Held, **changes: Any) -> None:
        container = msgspec.structs.replace(held.container, **changes)
        await asyncio.to_thread(self._store.save, container)
        held.container = container

    def _need(self, container_id: str) -> ContainerRecord:
        record = self._runtime.get(container_id)
        if record is None:
            raise no_such_container(container_id)
        return record

    def _with_joined_id(self, container: LocalContainer) -> LocalContainer:
        if not container.network_mode.startswith(CONTAINER_PREFIX):
            return container
        other = self.find(container.network_mode.removeprefix(CONTAINER_PREFIX))
        return msgspec.structs.replace(container, network_mode=f"{CONTAINER_PREFIX}{other.config.id}")

    def _taken_names(self) -> dict[str, str]:
        return {record.config.name: record.config.id for record in self._runtime.list()} | self._new_names

    def _take_name(self, name: str, container_id: str) -> None:
        holder = self._taken_names().get(name)
        if holder is not None:
            raise name_conflict(name, holder)
        self._new_names[name] = container_id


async def _wait_over(held: Held) -> None:
    """Return when the run has ended and nothing follows it."""
    if held.job is not None and held.job is not asyncio.current_task():
        await asyncio.wait([held.job])


def _mended(container: LocalContainer, record: ContainerRecord) -> LocalContainer:
    """Return the container; one whose record was damaged with what the runtime knows of it."""
    if container.name:
        return container
    return msgspec.structs.replace(container, name=record.config.name, was_started=record.started_at_ns > 0)
