"""Which images a list shows, and which a prune removes. Pure."""

from datetime import datetime
from fnmatch import fnmatchcase

from pyswarm_agent.images import Image, ImageStore
from pyswarm_common.amounts import parse_duration_ns
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import parse_time_ns
from pyswarm_common.errors import InvalidArgument, NotFound

LIST_FILTERS = ("reference", "dangling", "label", "before", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")
_TRUE, _FALSE = ("true", "1", "t", "T", "TRUE", "True"), ("false", "0", "f", "F", "FALSE", "False")
_SECOND_NS = 1_000_000_000


def matches(image: Image, filters: Filters, images: ImageStore) -> bool:
    """Whether a list shows an image. Raises NotFound for a `before` or `since` that is not here, InvalidArgument."""
    wanted = {value in _TRUE for value in filters.values("dangling")}
    return (
        (not wanted or (not image.repo_tags) in wanted)
        and filters.allows_labels("label", image.config.labels)
        and ("reference" not in filters or any(_names(image, r) for r in filters.values("reference")))
        and all(created_ns(image.created) < _created_of(name, images) for name in filters.values("before"))
        and all(created_ns(image.created) > _created_of(name, images) for name in filters.values("since"))
        and all(created_ns(image.created) < until_ns(text, 0) for text in filters.values("until"))
    )


def prunes(image: Image, filters: Filters, now_ns: int) -> bool:
    """Whether a prune removes an image that nothing uses. Raises InvalidArgument."""
    only_dangling = True
    for value in filters.values("dangling"):
        if value not in (*_TRUE, *_FALSE):
            raise InvalidArgument(f"invalid filter 'dangling={value}'")
        only_dangling = value in _TRUE
    if len(filters.values("until")) > 1:
        raise InvalidArgument("more than one until filter specified")
    return (
        (not only_dangling or not image.repo_tags)
        and filters.allows_labels("label", image.config.labels)
        and not ("label!" in filters and filters.allows_labels("label!", image.config.labels))
        and all(created_ns(image.created) < until_ns(text, now_ns) for text in filters.values("until"))
    )


def until_ns(text: str, now_ns: int) -> int:
    """Return the moment in an `until` filter: a time, or a duration before now, such as `24h`. Raises InvalidArgument."""
    try:
        return parse_time_ns(text)
    except InvalidArgument:
        if not now_ns:
            raise
    try:
        return now_ns - parse_duration_ns(text)
    except ValueError as error:
        raise InvalidArgument(f'invalid filter until="{text}": give a time, or a duration such as 24h') from error


def created_ns(created: str) -> int:
    """Return when an image or a step of its history was made; 0 where it does not say so."""
    try:
        return int(datetime.fromisoformat(created).timestamp()) * _SECOND_NS if created else 0
    except (ValueError, OverflowError):
        return 0


def _created_of(name: str, images: ImageStore) -> int:
    image = images.get(name)
    if image is None:
        raise NotFound(f"No such image: {name}")
    return created_ns(image.created)


def _names(image: Image, pattern: str) -> bool:
    """Whether a name of the image, or its repository, fits the pattern (`*` and `?` as in file names, not across `/`)."""
    names = [*image.repo_tags, *(tag.rpartition(":")[0] for tag in image.repo_tags), *image.repo_digests]
    return any(_fits(name, pattern) for name in names)


def _fits(name: str, pattern: str) -> bool:
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(fnmatchcase(part, one) for part, one in zip(parts, patterns, strict=True))
