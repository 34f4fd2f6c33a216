"""Unpacks a tar archive below a folder of a container's root, which is `/`. See `root` for what must not happen here."""

import contextlib
import os
import shutil
import stat
import tarfile
from typing import BinaryIO

from pyswarm_agent.container_files.attributes import set_attributes
from pyswarm_agent.container_files.reading import NotCopied, refuse_kernel_files, resolve

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT_MODE = 0o755
_PIECE_BYTES = 1 << 18


class Writer:
    """Unpacks below `folder`. `owner`: uid and gid that everything gets, None for those of the archive."""

    def __init__(self, folder: str, *, keeps_kinds: bool, owner: tuple[int, int] | None) -> None:
        """`keeps_kinds`: never to put a file in the place of a folder, nor a folder in that of a file.

        Raises FileNotFoundError, NotCopied.
        """
        self._folder = resolve(folder, follows_last=True)
        if not stat.S_ISDIR(os.stat(self._folder).st_mode):
            raise NotCopied("extraction point is not a directory")
        refuse_kernel_files(self._folder)
        self._keeps_kinds = keeps_kinds
        self._owner = owner
        self._folder_times: dict[str, float] = {}

    def unpack(self, source: BinaryIO) -> None:
        """Unpack a stream, compressed or not. Raises NotCopied, OSError."""
        try:
            with tarfile.open(fileobj=source, mode="r|*") as archive:
                for member in archive:
                    self._unpack_member(archive, member)
        except (tarfile.TarError, EOFError) as error:
            raise NotCopied(f"the archive cannot be read: {error}") from error
        # Filling a folder changed its time, so this comes last.
        for path, mtime_s in self._folder_times.items():
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (mtime_s, mtime_s), follow_symlinks=False)

    def _unpack_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = os.path.normpath(member.name.lstrip("/"))
        if name == ".." or name.startswith("../"):
            raise NotCopied(f"invalid archive: {member.name} leads out of it")
        path = os.path.join(self._folder, name)
        if name == ".":
            return
        self._make_room(path, member)
        if member.isreg():
            self._write_file(archive, member, path)
        elif member.isdir():
            self._make_folder(member, path)
        elif member.islnk():
            os.link(os.path.join(self._folder, os.path.normpath(member.linkname.lstrip("/"))), path, follow_symlinks=False)
        elif member.issym():
            os.symlink(member.linkname, path)
            os.chown(path, *self._owner_of(member), follow_symlinks=False)
        else:
            self._make_node(member, path)

    def _make_room(self, path: str, member: tarfile.TarInfo) -> None:
        os.makedirs(os.path.dirname(path), _PARENT_MODE, exist_ok=True)
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        if self._keeps_kinds and is_folder != member.isdir():
            old, new = ("directory", "non-directory") if is_folder else ("non-directory", "directory")
            raise NotCopied(f'cannot overwrite {old} "{path}" with {new} "{self._folder}"')
        if not is_folder:
            os.unlink(path)
        elif not member.isdir():
            shutil.rmtree(path)

    def _write_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        descriptor = os.open(path, _NEW_FILE, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            content = archive.extractfile(member)
            assert content is not None
            shutil.copyfileobj(content, file, _PIECE_BYTES)
            os.fchown(descriptor, *self._owner_of(member))
            os.fchmod(descriptor, member.mode & 0o7777)
            set_attributes(descriptor, member.pax_headers)  # after chown, which takes capabilities away
            os.utime(descriptor, (member.mtime, member.mtime))

    def _make_folder(self, member: tarfile.TarInfo, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, *self._owner_of(member))
            os.fchmod(descriptor, member.mode & 0o7777)
            set_attributes(descriptor, member.pax_headers)
        finally:
            os.close(descriptor)
        self._folder_times[path] = member.mtime

    def _make_node(self, member: tarfile.TarInfo, path: str) -> None:
        kinds = {tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}
        if member.type not in kinds:
            raise NotCopied(f"{member.name} is of a kind that cannot be copied")
        os.mknod(path, kinds[member.type] | member.mode & 0o7777, os.makedev(member.devmajor, member.devminor))
        os.chown(path, *self._owner_of(member), follow_symlinks=False)

    def _owner_of(self, member: tarfile.TarInfo) -> tuple[int, int]:
        return self._owner or (member.uid, member.gid)
