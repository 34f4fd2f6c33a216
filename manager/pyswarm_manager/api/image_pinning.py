"""Records the digest of a service's image once, in its spec, so that every replica runs the same version for as long as it lives.

    posted image            current image             stored
    name:tag@digest         any                       as posted, without asking
    name:tag                name:tag@digest           the current one: a service that is posted anew moves to no other version
    name:tag                another, or none          name:tag@digest as the registry has it now

Docker's client does this for itself; others (its SDK, Compose files) do not. A registry that cannot be asked costs a warning and
no more, as with Docker. This happens before the store is asked to change anything, and is given up after `PINNING_TIMEOUT_S`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable
from pyswarm_manager.api.service_spec import ServiceDraft, with_image

PINNING_TIMEOUT_S = 4.0
SILENT_REGISTRY_PAUSE_S = 15.0
"""How long a registry that was not reached is not asked again, so that many services created at once do not all wait for it."""
_DEFAULT_REGISTRY = "docker.io"

ImagePinner: TypeAlias = Callable[[str, str], Awaitable[str]]
"""(image, content of `X-Registry-Auth`) → `name:tag@sha256:…`. Raises PyswarmError: Unavailable when no registry is reached."""

_log = structlog.get_logger()


class ImagePinning:
    """Pins the images of drafts with a pinner; remembers which registries were silent."""

    def __init__(self, pin: ImagePinner, clock: Clock) -> None:
        self._pin = pin
        self._clock = clock
        self._silent_until_s: dict[str, float] = {}

    async def pinned(self, draft: ServiceDraft, registry_auth: str, current_image: str = "") -> tuple[ServiceDraft, list[str]]:
        """Return the draft with its image's digest, and warnings. `current_image`: of the service that is updated."""
        image = image_of(draft)
        if not image or "@" in image:
            return draft, []
        if _means(image, current_image):
            return with_image(draft, current_image), []
        try:
            return with_image(draft, await self._ask(image, registry_auth)), []
        except PyswarmError as error:
            _log.warning("service.image_not_pinned", image=image, reason=error.message)
            return draft, [digest_warning(image)]

    async def _ask(self, image: str, registry_auth: str) -> str:
        registry = registry_of(image)
        if self._silent_until_s.get(registry, 0.0) > self._clock.monotonic_s():
            raise Unavailable(f"{registry} could not be reached a moment ago")
        try:
            async with asyncio.timeout(PINNING_TIMEOUT_S):
                return await self._pin(image, registry_auth)
        except TimeoutError:
            self._remember_silent(registry)
            raise Unavailable(f"{registry} did not answer within {PINNING_TIMEOUT_S:.0f} s") from None
        except Unavailable:
            self._remember_silent(registry)
            raise

    def _remember_silent(self, registry: str) -> None:
        now_s = self._clock.monotonic_s()
        self._silent_until_s = {name: until_s for name, until_s in self._silent_until_s.items() if until_s > now_s}
        self._silent_until_s[registry] = now_s + SILENT_REGISTRY_PAUSE_S


def image_of(draft: ServiceDraft) -> str:
    """Return the image that a draft names; "" for none."""
    container = draft.typed.task_template.container_spec
    return container.image if container is not None else ""


def registry_of(image: str) -> str:
    """Return the registry of an image's name, as Docker tells it from the name's first part."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _DEFAULT_REGISTRY


def digest_warning(image: str) -> str:
    """Return Docker's words for an image whose digest is not known."""
    return (
        f"image {image} could not be accessed on a registry to record its digest. Each node will access {image} independently, "
        "possibly leading to different nodes running different versions of the image."
    )


def _means(image: str, pinned: str) -> bool:
    """Whether `pinned` is `image` with a digest."""
    name, at, _ = pinned.partition("@")
    has_tag = ":" in image.rpartition("/")[2]
    return bool(at) and name == (image if has_tag else f"{image}:latest")
