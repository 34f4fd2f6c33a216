"""A node's images: the one entrance to pulling, loading, naming, finding and removing them.

    images/index.json        names → image ids
          /configs/          each image's configuration
          /layers/           unpacked layers (see layers.py)
          /temporary/        what is under way; emptied at start
          /trash/            what is being deleted

After a crash at any point an image is there with all its layers, or not at all.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path

from pyswarm_agent.images.archive import ArchiveLoader
from pyswarm_agent.images.disk import Trash
from pyswarm_agent.images.index import ImageIndex
from pyswarm_agent.images.layers import LayerStore
from pyswarm_agent.images.puller import Puller, with_size
from pyswarm_agent.images.records import Descriptor, Image, PullProgress, RegistryAuth, Removal, short_id
from pyswarm_agent.images.reference import Reference, parse_reference
from pyswarm_agent.images.registry import InsecureRegistries
from pyswarm_agent.images.sharing import SharedWork
from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound


class ImageStore:
    """Images under `data_dir/images`. Use it from one event loop, one store per directory; `close` it at the end."""

    def __init__(self, data_dir: Path, *, insecure_registries: Sequence[str] = (), clock: Clock | None = None) -> None:
        """Open the store, clearing away what a crash left. `insecure_registries`: CIDRs or host[:port]; this machine always is."""
        directory = data_dir / "images"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # set-user-ID programs of layers are for containers only
        self._trash = Trash(directory / "trash")
        try:
            self._open(directory, InsecureRegistries(insecure_registries), clock or SystemClock())
        except BaseException:
            self._trash.close()
            raise

    def _open(self, directory: Path, insecure: InsecureRegistries, clock: Clock) -> None:
        temporary = directory / "temporary"
        self._trash.discard(temporary)
        temporary.mkdir()
        self._layers = LayerStore(directory / "layers", temporary, self._trash)
        self._index = ImageIndex(directory, complete=self._complete)
        self._loader = ArchiveLoader(self._layers, self._index, temporary)
        self._puller = Puller(self._layers, self._index, temporary, insecure, clock)
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
        Unauthenticated, Unavailable (registry not reached), PyswarmError (content that is not what its digest says).
        """
        parsed = parse_reference(reference)
        return await self._pulls.run((parsed, auth), lambda report: self._puller.pull(parsed, auth, report), progress or _ignore)

    async def load(self, chunks: AsyncIterator[bytes] | Path, progress: Callable[[PullProgress], None] | None = None) -> list[str]:
        """Load the images of a `docker save` or OCI layout tarball; return their familiar names, or ids where they have none.

        Raises InvalidArgument for what is no such tarball, PyswarmError for damaged content.
        """
        return await self._loader.load(chunks, progress or _ignore)

    async def resolve_digest(self, reference: str, *, auth: RegistryAuth | None = None) -> Descriptor:
        """Return what the registry has under a name, without fetching the image. Raises as `pull` does."""
        return await self._puller.resolve(parse_reference(reference), auth)

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

    def tag(self, reference: str, new: str) -> None:
        """Give an image another name. Raises NotFound, InvalidArgument."""
        image = self._require(reference)
        name = parse_reference(new)
        if name.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        self._index.name(name, image.id)
        self._index.save()

    def remove(self, reference: str, *, force: bool = False, in_use: Collection[str] = ()) -> list[Removal]:
        """Take a name away, and with the last name the image and the layers that no other image has.

        `in_use` holds the ids of images and layers that containers use: those stay, images without a name if forced. An image given
        by id loses all its names, which must be forced when they are in several repositories. Raises NotFound, Conflict.
        """
        image = self._require(reference)
        names = self._index.names_of(image.id)
        going = self._names_to_remove(reference, image, names, force=force)
        stays = len(going) < len(names)
        if not stays and image.id in in_use and not (force and going):
            raise Conflict(
                f"conflict: unable to delete {short_id(image.id)} (cannot be forced) - image is being used by running container"
                if force
                else f"conflict: unable to remove {reference} (must force) - a container is using its image {short_id(image.id)}"
            )
        for name in going:
            self._index.unname(name)
        removals = [Removal(untagged=name.familiar) for name in going]
        if not stays and image.id not in in_use:
            self._index.delete(image.id)
            removals.append(Removal(deleted=image.id))
        # The index first: a crash in between leaves layers that nobody names, never an image without its layers.
        self._index.save()
        return removals + [Removal(deleted=layer_id) for layer_id in self._discard_unnamed_layers(in_use)]

    async def collect_garbage(self, in_use: Collection[str] = ()) -> list[str]:
        """Remove the layers that no image has, except those whose ids are in `in_use`; return the ids of the removed layers."""
        return self._discard_unnamed_layers(in_use)

    async def close(self) -> None:
        """Stop pulls under way, close connections and finish deleting."""
        await self._pulls.close()
        await self._puller.close()
        self._trash.close()

    def _require(self, reference: str) -> Image:
        image = self.get(reference)
        if image is None:
            raise NotFound(f"No such image: {reference}")
        return image

    def _names_to_remove(self, reference: str, image: Image, names: list[Reference], *, force: bool) -> list[Reference]:
        try:
            wanted = parse_reference(reference)
        except InvalidArgument:
            wanted = None
        if wanted is None or self._index.id_of(wanted) != image.id:
            repositories = {name.name for name in names}
            if len(repositories) > 1 and not force:
                raise Conflict(
                    f"conflict: unable to delete {short_id(image.id)} (must be forced) "
                    "- image is referenced in multiple repositories"
                )
            return names
        if wanted.digest:
            wanted = wanted.with_digest(wanted.digest)
        going = [wanted]
        # A repository's digests go with its last tag.
        if not any(name.name == wanted.name and name.tag and name != wanted for name in names):
            going += [name for name in names if name.name == wanted.name and name.digest and name != wanted]
        return going

    def _discard_unnamed_layers(self, in_use: Collection[str]) -> list[str]:
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


def _ignore(progress: PullProgress) -> None:
    """Take progress that nobody asked for."""
