"""What goes when somebody removes an image, and why it may not: Docker's rules and words. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pyswarm_agent.images.records import Image, short_id
from pyswarm_agent.images.reference import Reference, parse_reference
from pyswarm_common.errors import Conflict, InvalidArgument


@dataclass(frozen=True)
class ImageUser:
    """A container that stands on an image."""

    container_id: str
    is_running: bool


@dataclass(frozen=True)
class RemovalPlan:
    """The names that are taken away, and whether the image goes with them."""

    names: tuple[Reference, ...]
    deletes_image: bool


def plan_removal(
    reference: str,
    image: Image,
    names: list[Reference],
    *,
    force: bool,
    in_use: Collection[str],
    users: Mapping[str, ImageUser],
) -> RemovalPlan:
    """Return what goes for `reference`, which means `image` with its `names`. Raises Conflict.

    `in_use`: ids of images that containers, or tasks to be started, stand on; `users`: such containers, by image id.
    """
    by_name = _name_meant(reference, names)
    going = names if by_name is None else _names_with(by_name, names)
    if by_name is None:
        _check_repositories(image, names, force=force)
    is_used = image.id in in_use
    if is_used and len(going) == len(names):
        _check_use(reference, image, users.get(image.id), by_name=by_name is not None, force=force and bool(going))
    return RemovalPlan(tuple(going), deletes_image=len(going) == len(names) and not is_used)


def _name_meant(reference: str, names: list[Reference]) -> Reference | None:
    """Return the name that `reference` is, or None where it is (a part of) an id."""
    try:
        wanted = parse_reference(reference)
    except InvalidArgument:
        return None
    if wanted.digest:
        wanted = wanted.with_digest(wanted.digest)
    return wanted if wanted in names else None


def _names_with(wanted: Reference, names: list[Reference]) -> list[Reference]:
    """A repository's digests go with its last tag."""
    others = [name for name in names if name.name == wanted.name and name != wanted]
    return [wanted] if any(name.tag for name in others) else [wanted, *others]


def _check_repositories(image: Image, names: list[Reference], *, force: bool) -> None:
    if len({name.name for name in names}) > 1 and not force:
        raise Conflict(
            f"conflict: unable to delete {short_id(image.id)} (must be forced) - image is referenced in multiple repositories"
        )


def _check_use(reference: str, image: Image, user: ImageUser | None, *, by_name: bool, force: bool) -> None:
    container = f"container {short_id(user.container_id)}" if user is not None else "a task of this node"
    if by_name:
        if not force:
            raise Conflict(
                f'conflict: unable to remove repository reference "{reference}" (must force) - '
                f"{container} is using its referenced image {short_id(image.id)}"
            )
        return
    if user is not None and not user.is_running:
        if not force:
            raise Conflict(
                f"conflict: unable to delete {short_id(image.id)} (must be forced) - image is being used by stopped {container}"
            )
        return
    state = "running " if user is not None else ""
    raise Conflict(
        f"conflict: unable to delete {short_id(image.id)} (cannot be forced) - image is being used by {state}{container}"
    )
