"""Frees disk space by itself: images that nothing uses go, the longest unused first.

Only what can be had again goes: an image that no registry gave (loaded, imported) stays as long as it has a name, since nobody
could bring it back. An image that a container uses, or that a task of this node is to run, is never touched. As the kubelet does:

    the disk is fuller than `high_percent`       images go until it is at `low_percent`, or none is left
    an image is unused for `unused_age_s`        it goes, however much room there is (0: never)
    an image came or was used just now           it stays, for `young_s`
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from pyswarm_agent.images.disk import in_thread
from pyswarm_agent.images.partial import KEPT_S
from pyswarm_agent.images.records import Image
from pyswarm_agent.images.settings import CollectorSettings
from pyswarm_agent.images.store import ImageStore
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import write_atomically

_log = structlog.get_logger()


@dataclass(frozen=True)
class DiskState:
    """How full a disk is."""

    total_bytes: int
    used_bytes: int

    @property
    def used_percent(self) -> float:
        """How much of it is used, as `df` counts."""
        return 100 * self.used_bytes / self.total_bytes if self.total_bytes else 0.0


class ImageCollector:
    """Looks after the disk of an image store. `run` until cancelled."""

    def __init__(
        self, images: ImageStore, in_use: Callable[[], Collection[str]], clock: Clock, settings: CollectorSettings | None = None
    ) -> None:
        """`in_use`: the ids of the images and layers that must stay."""
        self._images = images
        self._in_use = in_use
        self._clock = clock
        self._settings = settings or CollectorSettings()
        self._file = images.directory / "last-used.json"
        self._last_used_s = _read(self._file)

    async def run(self) -> None:
        """Look at the disk now and then. Nothing that goes wrong here ends it."""
        while True:
            await self._clock.sleep(self._settings.period_s)
            try:
                await self.collect()
            except (PyswarmError, OSError) as error:
                _log.warning("images.collector_failed", reason=str(error))

    async def collect(self, disk: DiskState | None = None) -> list[str]:
        """Look at the disk once (or believe `disk`); return the ids of the images that went."""
        now_s = self._clock.now_ns() / 1e9
        await self._note_use(now_s)
        found = disk if disk is not None else await in_thread(disk_state, self._images.directory)
        excess_bytes = excess(found, self._settings)
        collected: list[str] = []
        # Half an image is worth less than a whole one.
        freed_bytes = await in_thread(self._images.discard_partial, self._settings.young_s if excess_bytes else KEPT_S)
        for image_id, is_old in order(self._images.list(), self._in_use(), self._last_used_s, now_s, self._settings):
            if not is_old and freed_bytes >= excess_bytes:
                break
            in_use = self._in_use()  # again: tasks have come since
            if image_id not in in_use and self._images.get(image_id) is not None:
                freed_bytes += (await self._images.remove_counted(image_id, force=True, in_use=in_use))[1]
                collected.append(image_id)
        self._tell(found, excess_bytes, collected, freed_bytes)
        return collected

    async def _note_use(self, now_s: float) -> None:
        images = {image.id for image in self._images.list()}
        used = images & set(self._in_use())
        noted = {image_id: now_s if image_id in used else self._last_used_s.get(image_id, now_s) for image_id in images}
        if noted != self._last_used_s:
            self._last_used_s = noted
            await in_thread(write_atomically, self._file, msgspec.json.encode(noted))

    def _tell(self, disk: DiskState, excess_bytes: int, collected: list[str], freed_bytes: int) -> None:
        if collected:
            _log.info("images.collected", images=collected, freed_bytes=freed_bytes, disk_used_percent=round(disk.used_percent, 1))
        if freed_bytes < excess_bytes:
            _log.warning(
                "images.disk_nearly_full",
                disk_used_percent=round(disk.used_percent, 1),
                hint="no image is left that nothing uses and a registry could give again: free some of the disk otherwise",
            )


def excess(disk: DiskState, settings: CollectorSettings) -> int:
    """Return how many bytes are to be freed."""
    if disk.used_percent <= settings.high_percent:
        return 0
    return disk.used_bytes - disk.total_bytes * settings.low_percent // 100


def order(
    images: Iterable[Image], in_use: Collection[str], last_used_s: Mapping[str, float], now_s: float, settings: CollectorSettings
) -> list[tuple[str, bool]]:
    """Return the ids of the images that may go, in the order in which they go, and whether each is too old to stay anyway."""
    unused_s = {image.id: now_s - last_used_s.get(image.id, now_s) for image in images if is_replaceable(image)}
    free = [image_id for image_id, age_s in unused_s.items() if image_id not in in_use and age_s >= settings.young_s]
    return [
        (image_id, 0 < settings.unused_age_s <= unused_s[image_id])
        for image_id in sorted(free, key=lambda image_id: (-unused_s[image_id], image_id))
    ]


def is_replaceable(image: Image) -> bool:
    """Whether an image can be had again, or has no name by which anybody would ask for it."""
    return bool(image.repo_digests) or not image.repo_tags


def disk_state(directory: Path) -> DiskState:
    """Return the state of the disk that holds a directory; what is kept back for root counts as used."""
    disk = os.statvfs(directory)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    return DiskState(used + disk.f_bavail * disk.f_frsize, used)


def _read(file: Path) -> dict[str, float]:
    """A file that is lost or damaged costs images no more than to count as used now."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}
