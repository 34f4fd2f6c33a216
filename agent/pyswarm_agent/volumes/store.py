"""`VolumeStore`: the volumes of this node, by the local driver.

`<data_dir>/volumes/<name>/` holds `_data`, what containers see, and `volume.json`, what is known of the volume. A volume is
made in a folder beside and renamed into its place, synced, before its making is acknowledged; it is removed by being renamed
into `.removed`, and deleted there. So there is always a whole volume or none. A folder with `_data` but without a readable
`volume.json` counts as a volume without options: somebody put it there, or the disk lost a block, and data is never refused.

Who uses a volume follows from the containers' configurations; those who are about to make a container hold its volumes meanwhile.
"""

import asyncio
import collections
import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from pyswarm_agent.images.disk import Trash, in_thread
from pyswarm_agent.volumes.records import (
    ANONYMOUS_LABEL,
    Volume,
    check_driver,
    check_name,
    check_options,
    check_same,
    new_anonymous_name,
    no_such_volume,
    volume_in_use,
)
from pyswarm_common.clock import Clock
from pyswarm_common.disk_space import files_bytes
from pyswarm_common.errors import Conflict, NotFound
from pyswarm_common.files import sync_directory, write_atomically

DATA_FOLDER = "_data"
_NEW, _REMOVED = ".new", ".removed"
_BEING_MADE = "a container that is being made"

_log = structlog.get_logger()

Users = Mapping[str, Iterable[str]]
"""The ids of the containers that use each volume, by its name."""


class VolumeStore:
    """Keeps volumes. Changes are made one at a time; reading never waits."""

    def __init__(self, data_dir: Path, clock: Clock, users: Callable[[], Users] = dict) -> None:
        self._folder = data_dir / "volumes"
        self._clock = clock
        self._users = users
        # What containers write may be set-uid, and the host's other users must not reach it.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(data_dir)
        shutil.rmtree(self._folder / _NEW, ignore_errors=True)
        self._trash = Trash(self._folder / _REMOVED)
        self._volumes = {volume.name: volume for volume in self._load()}
        self._changes = asyncio.Lock()
        self._held: collections.Counter[str] = collections.Counter()
        self.on_event: Callable[[str, Volume], None] = _ignore
        """Told `create` and `destroy` in this event loop, once they have happened."""

    async def close(self) -> None:
        """Return when everything removed is deleted."""
        await asyncio.to_thread(self._trash.close)

    def get(self, name: str) -> Volume | None:
        """Return a volume, or None."""
        return self._volumes.get(name)

    def need(self, name: str) -> Volume:
        """Return a volume. Raises NotFound."""
        volume = self._volumes.get(name)
        if volume is None:
            raise no_such_volume(name)
        return volume

    def data_path(self, name: str) -> Path:
        """Return the folder with a volume's files; of one with options, where those are mounted for its containers."""
        return self._folder / name / DATA_FOLDER

    def users(self) -> dict[str, list[str]]:
        """Return the ids of the containers that use each volume, by its name."""
        return {name: list(ids) for name, ids in self._users().items()}

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        container_id: str = "",
    ) -> Volume:
        """Make a volume and return it, or the one of this name that exists; "" makes an anonymous one.

        One with a `container_id` is anonymous too, and goes when `remove_of` is told that container.
        Raises InvalidArgument, NotFound (no such driver), Conflict (it exists with other options), OSError.
        """
        check_driver(name, driver)
        is_anonymous = not name or bool(container_id)
        name = name or new_anonymous_name()
        async with self._changes:
            known = self._volumes.get(name)
            if known is not None:
                check_same(known, options or {})
                return known
            check_name(name)
            check_options(name, options or {})
            volume = Volume(
                name=name,
                options=dict(options or {}),
                labels={**(labels or {}), **({ANONYMOUS_LABEL: ""} if is_anonymous else {})},
                created_at_ns=self._clock.now_ns(),
                container_id=container_id,
            )
            await in_thread(self._make, volume)
            self.on_event("create", volume)
            return volume

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that no container uses; with `force` one that lacks is fine. Raises NotFound, Conflict, OSError."""
        async with self._changes:
            if force and name not in self._volumes:
                return
            volume = self.need(name)
            users = self._users_of(name)
            if users:
                raise volume_in_use(name, users)
            await in_thread(self._take_away, name)
            self.on_event("destroy", volume)

    async def remove_of(self, container_id: str) -> None:
        """Remove the volumes that go with a container that is gone, but for those that another one uses by now. Idempotent."""
        for volume in self.list():
            if volume.container_id == container_id and not self._users_of(volume.name):
                await self.remove(volume.name, force=True)

    async def prune(self, is_wanted: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Remove the wanted volumes that no container uses; return their names and how many bytes that freed. Raises OSError."""
        names: list[str] = []
        freed_bytes = 0
        users = self._users()  # once: it looks at every container, and `remove` looks again
        for volume in self.list():
            if is_wanted(volume) and not users.get(volume.name):
                size_bytes = await self.size_bytes(volume.name)
                with contextlib.suppress(Conflict, NotFound):  # taken into use, or removed, meanwhile
                    await self.remove(volume.name)
                    names.append(volume.name)
                    freed_bytes += max(0, size_bytes)
        return names, freed_bytes

    async def size_bytes(self, name: str) -> int:
        """Return the sizes of a volume's files together; -1 for one whose files are mounted from elsewhere, 0 for none."""
        volume = self._volumes.get(name)
        if volume is not None and volume.options:
            return -1
        return await asyncio.to_thread(files_bytes, self.data_path(name))

    @contextlib.contextmanager
    def held(self, names: Iterable[str]) -> Iterator[None]:
        """Let nobody remove these volumes, which need not exist yet, while a container is made that is to use them."""
        held = collections.Counter(names)
        self._held += held
        try:
            yield
        finally:
            self._held -= held

    def list(self) -> list[Volume]:
        """Return all volumes by name."""
        return sorted(self._volumes.values(), key=lambda volume: volume.name)

    def _users_of(self, name: str) -> Sequence[str]:
        return [*self._users().get(name, ()), *([_BEING_MADE] if self._held[name] else [])]

    def _make(self, volume: Volume) -> None:
        new = self._folder / _NEW / volume.name
        shutil.rmtree(new, ignore_errors=True)
        (new / DATA_FOLDER).mkdir(parents=True)
        new.chmod(0o711)
        (new / DATA_FOLDER).chmod(0o755)
        write_atomically(new / "volume.json", msgspec.json.encode(volume))
        new.rename(self._folder / volume.name)
        sync_directory(self._folder)
        self._volumes[volume.name] = volume

    def _take_away(self, name: str) -> None:
        self._trash.discard(self._folder / name)
        sync_directory(self._folder)
        del self._volumes[name]

    def _load(self) -> Iterator[Volume]:
        for folder in sorted(self._folder.iterdir()):
            if not folder.name.startswith(".") and (folder / DATA_FOLDER).is_dir():
                yield _load_volume(folder)


def _ignore(action: str, volume: Volume) -> None:
    """Tell nobody."""


def _load_volume(folder: Path) -> Volume:
    try:
        return msgspec.structs.replace(msgspec.json.decode((folder / "volume.json").read_bytes(), type=Volume), name=folder.name)
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("volume.description_lost", volume=folder.name, error=str(error), hint="its files are kept")
        return Volume(name=folder.name, created_at_ns=folder.stat().st_mtime_ns)
