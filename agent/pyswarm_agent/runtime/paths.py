"""Where a container's files lie, and how its record is kept.

Below the data directory, `containers/<id>/`: what must survive (`container.json`, the log, the writable layer). Below the
runtime directory, `bundles/<id>/`: what belongs to one run (OCI bundle, generated files, mount point, process ids, exit
code), and `oci/<id>/`, the OCI runtime's own notes.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pyswarm_agent.runtime.interface import ContainerFolders
from pyswarm_agent.runtime.processes import ProcessIdentity
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord
from pyswarm_common.failpoints import failpoint
from pyswarm_common.files import write_atomically
from pyswarm_common.objects import Record


class SavedContainer(Record, frozen=True, kw_only=True):
    """A container's record with what is needed to find its processes again. `boot`: the run of the machine it was started in."""

    record: ContainerRecord
    boot: str = ""
    process: ProcessIdentity | None = None
    monitor: ProcessIdentity | None = None


class ContainerPaths:
    """The files of one container."""

    def __init__(self, data_dir: Path, runtime_dir: Path, container_id: str) -> None:
        self.home = data_dir / "containers" / container_id
        self.saved = self.home / "container.json"
        self.lasting = self.home / "created.json"
        self.log = self.home / "container.log"
        self.bundle = runtime_dir / "bundles" / container_id
        self.rootfs = self.bundle / "rootfs"
        self.exit_dir = self.bundle / "exit"
        self.exit_file = self.exit_dir / container_id
        self.netns = self.bundle / "netns"
        self.private_files = self.bundle / "private"
        self.oci_root = runtime_dir / "oci"
        self.oci_state = self.oci_root / container_id

    @property
    def folders(self) -> ContainerFolders:
        """Where others look for its files."""
        home = self.home
        return ContainerFolders(self.log, self.bundle, self.rootfs, home / "upper", home / "work", home / "layers")

    def make_home(self, layer_paths: tuple[str, ...]) -> None:
        """Make the container's folder with `layers/0`, … as links to the image's layers. Raises OSError.

        The links are short names: a mount's options have one page at most, and an image may have 127 layers.
        """
        (self.home / "layers").mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(layer_paths):
            link = self.home / "layers" / str(number)
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        self.log.touch(mode=0o640)

    def make_writable_layer(self, *, keeps: bool = False) -> None:
        """Make an empty writable layer, in place of one that an interrupted start has left; one that it `keeps` stays.

        The container's / has the owner and mode of this folder, so it takes them from the image. It appears whole. Raises OSError.
        """
        image_root = (self.home / "layers" / "0").stat()
        upper, partial = self.home / "upper", self.home / "upper.partial"
        _remove_tree(self.home / "work")
        (self.home / "work").mkdir()
        if keeps and upper.is_dir():
            return
        for path in (upper, partial):
            _remove_tree(path)
        partial.mkdir()
        os.chown(partial, image_root.st_uid, image_root.st_gid)
        partial.chmod(image_root.st_mode & 0o7777)
        partial.rename(upper)

    def save(self, saved: SavedContainer) -> None:
        """Write the container down, whole or not at all. Raises OSError."""
        partial = self.saved.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(saved))
        partial.replace(self.saved)

    def save_lasting(self, config: ContainerConfig, created_at_ns: int) -> None:
        """Write down, synced, how a container is to be run that is to outlive a power cut. Raises OSError.

        `save` does not wait for the disk; what a power cut leaves of its file may be nothing.
        """
        record = ContainerRecord(config=config, created_at_ns=created_at_ns)
        write_atomically(self.lasting, msgspec.json.encode(SavedContainer(record=record)))

    def load(self) -> SavedContainer | None:
        """Return what was written down, None if that cannot be read: the container was only half made."""
        for path in (self.saved, self.lasting):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                return msgspec.json.decode(path.read_bytes(), type=SavedContainer)
        return None

    def remove_run(self) -> None:
        """Remove the files of the container's run, if any."""
        _remove_tree(self.bundle)
        _remove_tree(self.oci_state)

    def remove_all(self) -> None:
        """Remove every file of the container, its record first: what is interrupted here is found to be half made."""
        self.lasting.unlink(missing_ok=True)
        self.saved.unlink(missing_ok=True)
        failpoint("container/forgotten")
        self.remove_run()
        _remove_tree(self.home)


def saved_ids(data_dir: Path, runtime_dir: Path) -> Iterator[str]:
    """Yield the id of every container that has files."""
    found: set[str] = set()
    for directory in (data_dir / "containers", runtime_dir / "bundles", runtime_dir / "oci"):
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in directory.iterdir())
    yield from sorted(found)


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
