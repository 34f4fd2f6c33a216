"""A node's images: the one entrance to pulling, loading, importing, saving, pushing, naming, finding and removing them.

    images/index.json        names → image ids
          /configs/          each image's configuration
          /layers/           unpacked layers (see layers.py)
          /partial/          blobs whose fetching was interrupted (see partial.py)
          /last-used.json    when each image was needed last (see collector.py)
          /temporary/        what is under way; emptied at start
          /trash/            what is being deleted

After a crash at any point an image is there with all its layers, or not at all.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pyswarm_agent.images.archive import ArchiveLoader
from pyswarm_agent.images.disk import Trash, in_thread
from pyswarm_agent.images.history import history_of, shared_bytes
from pyswarm_agent.images.importing import ImageImporter
from pyswarm_agent.images.index import ImageIndex
from pyswarm_agent.images.layers import DISK_RESERVE_BYTES, LayerStore
from pyswarm_agent.images.partial import KEPT_S, PartialBlobs
from pyswarm_agent.images.puller import Puller, with_size
from pyswarm_agent.images.pusher import Pusher
from pyswarm_agent.images.records import Descriptor, HistoryStep, Image, PullProgress, PushedTag, RegistryAuth, Removal
from pyswarm_agent.images.reference import Reference, parse_reference
from pyswarm_agent.images.registries import Registries, domain_of_address
from pyswarm_agent.images.removal import ImageUser, plan_removal
from pyswarm_agent.images.saving import SavedImage, check_packable, save_images
from pyswarm_agent.images.settings import RegistrySettings
from pyswarm_agent.images.sharing import SharedWork
from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.errors import InvalidArgument, NotFound


class ImageStore:
    """Images under `data_dir/images`. Use it from one event loop, one store per directory; `close` it at the end."""

    def __init__(
        self,
        data_dir: Path,
        *,
        insecure_registries: Sequence[str] = (),
        mirrors: Sequence[str] = (),
        reserve_bytes: int = DISK_RESERVE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        """Open the store, clearing away what a crash left.

        `insecure_registries`: CIDRs or host[:port]; this machine always is. `mirrors`: URLs that are asked before Docker Hub.
        `reserve_bytes`: how much of the disk images leave free.
        """
        self.directory = data_dir / "images"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)  # set-user-ID programs of layers are for containers only
        self._clock = clock or SystemClock()
        self.registries = Registries(RegistrySettings(tuple(insecure_registries), tuple(mirrors)), self._clock)
        self._wanted_names: Callable[[], Iterable[str]] = tuple
        self._trash = Trash(self.directory / "trash")
        try:
            self._open(self.directory, reserve_bytes)
        except BaseException:
            self._trash.close()
            raise

    def _open(self, directory: Path, reserve_bytes: int) -> None:
        temporary = directory / "temporary"
        self._trash.discard(temporary)
        temporary.mkdir()
        self._layers = LayerStore(directory / "layers", temporary, self._trash, reserve_bytes)
        self._index = ImageIndex(directory, complete=self._complete)
        self._partial = PartialBlobs(directory / "partial", temporary)
        self._loader = ArchiveLoader(self._layers, self._index, temporary)
        self._importer = ImageImporter(self._layers, self._index, temporary)
        self._puller = Puller(self._layers, self._index, temporary, self._partial, self.registries, self._clock)
        self._pusher = Pusher(self._layers, temporary, self.registries)
        self._pulls: SharedWork[Image] = SharedWork()

    async def pull(
        self,
        reference: str,
        *,
        auth: RegistryAuth | None = None,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        """Return the image under `reference` in its registry, fetching what this node lacks.

        Concurrent pulls of one image share the work. Raises InvalidArgument (bad name), NotFound (no such image, or no access),
        Unauthenticated, Unavailable (registry not reached), PyswarmError (content that is not what its digest says, a full disk).
        """
        parsed = parse_reference(reference)
        return await self._pulls.run((parsed, auth), lambda report: self._puller.pull(parsed, auth, report), progress or _ignore)

    async def load(self, chunks: AsyncIterator[bytes] | Path, progress: Callable[[PullProgress], None] | None = None) -> list[str]:
        """Load the images of a `docker save` or OCI layout tarball; return their familiar names, or ids where they have none.

        Raises InvalidArgument for what is no such tarball, PyswarmError for damaged content.
        """
        return await self._loader.load(chunks, progress or _ignore)

    async def import_files(
        self, files: AsyncIterator[bytes], name: str = "", *, changes: Sequence[str] = (), message: str = ""
    ) -> str:
        """Make an image of a tarball of files, compressed or not; return its id. `changes`: Dockerfile instructions.

        Raises InvalidArgument, PyswarmError.
        """
        reference = parse_reference(name) if name else None
        if reference is not None and reference.digest:
            raise InvalidArgument("cannot import digest reference")
        created = rfc3339(self._clock.now_ns())
        return await self._importer.import_files(files, reference, changes, message, created)

    def save(self, names: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """Return what yields a tarball of images for `load` and others; a name without a tag means all tags of its repository.

        Raises NotFound, and PyswarmError for what cannot be packed; the iterator raises PyswarmError when a layer's files changed.
        """
        saved = self._images_to_save(names)
        check_packable(saved, self._layers)
        return self._saved(saved)

    async def push(
        self,
        reference: str,
        *,
        auth: RegistryAuth | None = None,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> list[PushedTag]:
        """Push an image under its name, or with no tag in `reference` all tags of that repository.

        Raises NotFound, Unauthenticated, PermissionDenied, Unavailable, PyswarmError for what cannot be packed.
        """
        parsed = parse_reference(reference)
        if parsed.digest:
            raise InvalidArgument("cannot push a digest reference")
        names = [parsed] if _has_tag(reference) else self._index.tags_of(parsed.name)
        found = [(name, image_id) for name in names if (image_id := self._index.id_of(name)) is not None]
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {parsed.familiar_name}")
        pushed = []
        for name, image_id in found:
            image = self._require(image_id)
            pushed.append(await self._pusher.push(name, image, self.raw_config(image), auth, progress or _ignore))
        return pushed

    async def log_in(self, address: str, auth: RegistryAuth) -> str:
        """Check credentials at a registry; return the token to identify with from now on, "" for none.

        Raises Unauthenticated, Unavailable.
        """
        return await self.registries.get(domain_of_address(address)).log_in(auth)

    async def resolve_digest(self, reference: str, *, auth: RegistryAuth | None = None) -> Descriptor:
        """Return what the registry has under a name, without fetching the image. Raises as `pull` does."""
        return await self._puller.resolve(parse_reference(reference), auth)

    async def pin(self, reference: str, *, auth: RegistryAuth | None = None) -> str:
        """Return the name with the digest that the registry has under it now. Raises as `pull` does."""
        parsed = parse_reference(reference)
        return replace(parsed, digest=await self._puller.digest_of(parsed, auth)).familiar

    def get(self, reference: str) -> Image | None:
        """Return an image by name (short or full, tag or digest), id, or unique beginning of an id; None if it is not here."""
        image_id = self._index.find(reference)
        return None if image_id is None else self._index.get(image_id)

    def raw_config(self, image: Image) -> bytes:
        """Return the image's configuration file (JSON) as its maker wrote it."""
        return self._index.config(image.id)

    def layer_paths(self, image: Image) -> tuple[Path, ...]:
        """Return the image's layers as overlayfs lower directories, top-most first.

        A layer that occurs twice is named once, at its upper place: overlayfs refuses the same directory twice, and the upper one
        hides the lower.
        """
        return tuple(self._layers.path(layer_id) for layer_id in dict.fromkeys(reversed(image.layer_ids)))

    def layer_ids_at(self, paths: Iterable[str | Path]) -> set[str]:
        """Return the ids of the layers whose files are at these paths (as `layer_paths` gave them); other paths are ignored."""
        return self._layers.ids_at(paths)

    async def tag(self, reference: str, new: str) -> None:
        """Give an image another name. Raises NotFound, InvalidArgument."""
        image = self._require(reference)
        name = parse_reference(new)
        if name.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        self._index.name(name, image.id)
        await in_thread(self._index.snapshot())

    async def remove(
        self, reference: str, *, force: bool = False, in_use: Collection[str] = (), users: Mapping[str, ImageUser] | None = None
    ) -> list[Removal]:
        """Take a name away, and with the last name the image and the layers that no other image has.

        `in_use` holds the ids of images and layers that containers use: those stay, images without a name if forced; `users` says
        which containers. An image given by id loses all its names, which must be forced when they are in several repositories.
        Raises NotFound, Conflict.
        """
        return (await self.remove_counted(reference, force=force, in_use=in_use, users=users))[0]

    async def remove_counted(
        self, reference: str, *, force: bool = False, in_use: Collection[str] = (), users: Mapping[str, ImageUser] | None = None
    ) -> tuple[list[Removal], int]:
        """Remove as `remove` does; return also how many bytes that freed."""
        image = self._require(reference)
        names = self._index.names_of(image.id)
        plan = plan_removal(reference, image, names, force=force, in_use=in_use, users=users or {})
        for name in plan.names:
            self._index.unname(name)
        removals = [Removal(untagged=name.familiar) for name in plan.names]
        if plan.deletes_image:
            self._index.delete(image.id)
            removals.append(Removal(deleted=image.id))
        # The index first: a crash in between leaves layers that nobody names, never an image without its layers.
        await in_thread(self._index.snapshot())
        freed = self._discard_unnamed_layers(in_use)
        return removals + [Removal(deleted=layer_id) for layer_id in freed], sum(freed.values())

    async def collect_garbage(self, in_use: Collection[str] = ()) -> list[str]:
        """Remove the layers that no image has, except those whose ids are in `in_use`; return the ids of the removed layers."""
        return list(self._discard_unnamed_layers(in_use))

    @contextmanager
    def kept_for(self, names: Callable[[], Iterable[str]]) -> Iterator[None]:
        """Meanwhile the images that `names` gives count as used: tasks that have no container yet want them."""
        before, self._wanted_names = self._wanted_names, names
        try:
            yield
        finally:
            self._wanted_names = before

    def wanted_ids(self) -> set[str]:
        """Return the ids of the images here that count as used by `kept_for`."""
        return {image_id for name in set(self._wanted_names()) if (image_id := self._index.find(name)) is not None}

    def discard_partial(self, older_than_s: float = KEPT_S) -> int:
        """Remove parts of blobs that nobody asked for again for so long; return how many bytes that freed. Blocking."""
        return self._partial.discard_old(older_than_s)

    def history(self, image: Image) -> list[HistoryStep]:
        """Return the steps that made an image, the newest first."""
        return history_of(image, self.raw_config(image), self._layers.size_bytes)

    def shared_bytes(self) -> dict[str, int]:
        """Return by image id how much of it other images have too."""
        return shared_bytes(self.list(), self._layers.size_bytes)

    def layers_bytes(self) -> int:
        """Return how much all layers take, each counted once."""
        return sum(map(self._layers.size_bytes, self._layers.ids()))

    async def close(self) -> None:
        """Stop pulls under way, close connections and finish deleting."""
        await self._pulls.close()
        await self._puller.close()
        await self.registries.close()
        self._trash.close()

    def _require(self, reference: str) -> Image:
        image = self.get(reference)
        if image is None:
            raise NotFound(f"No such image: {reference}")
        return image

    def _images_to_save(self, names: Sequence[str]) -> list[SavedImage]:
        tags: dict[str, dict[Reference, None]] = {}
        for name in names:
            repository = [] if _has_tag(name) else self._tags_named(name)
            for tag in repository:
                tags.setdefault(self._require(str(tag)).id, {})[tag] = None
            if not repository:
                image_id = self._require(name).id
                tags.setdefault(image_id, {}).update(dict.fromkeys(self._own_name(name, image_id)))
        images = [self._require(image_id) for image_id in tags]
        return [SavedImage(image, self.raw_config(image), tuple(tags[image.id])) for image in images]

    def _tags_named(self, repository: str) -> list[Reference]:
        try:
            return self._index.tags_of(parse_reference(repository).name)
        except InvalidArgument:
            return []

    def _own_name(self, text: str, image_id: str) -> list[Reference]:
        """Return the tag that was asked for, if it was a tag: an image that is saved by its id has no name."""
        try:
            name = parse_reference(text)
        except InvalidArgument:
            return []
        return [name] if not name.digest and self._index.id_of(name) == image_id else []

    async def _saved(self, saved: list[SavedImage]) -> AsyncGenerator[bytes, None]:
        with self._layers.holding(layer_id for each in saved for layer_id in each.image.layer_ids):
            async for data in save_images(saved, self._layers):
                yield data

    def _discard_unnamed_layers(self, in_use: Collection[str]) -> dict[str, int]:
        wanted = {layer_id for image in self._index.images() for layer_id in image.layer_ids}
        return self._layers.discard_except(wanted.union(in_use))

    def _complete(self, image: Image) -> Image | None:
        if not all(layer_id in self._layers for layer_id in image.layer_ids):
            return None
        return with_size(image, self._layers)

    # Last, because below it `list` is this method and no longer the type.
    def list(self) -> list[Image]:
        """Return all images, ordered by id."""
        return self._index.images()


def _has_tag(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


def _ignore(progress: PullProgress) -> None:
    """Take progress that nobody asked for."""
