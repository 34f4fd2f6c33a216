"""The registries that this node speaks to: which ones are asked for a name, in which order, and with whose credentials."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from pyswarm_agent.images.endpoints import HTTPClients, InsecureRegistries
from pyswarm_agent.images.records import RegistryAuth
from pyswarm_agent.images.reference import DEFAULT_DOMAIN, Reference
from pyswarm_agent.images.registry import Registry
from pyswarm_agent.images.settings import RegistrySettings
from pyswarm_common.clock import Clock
from pyswarm_common.containment import contained
from pyswarm_common.errors import PyswarmError

T = TypeVar("T")
_LEGACY_ADDRESSES = ("index.docker.io", "registry-1.docker.io")

_log = structlog.get_logger()


class Registries:
    """Registries by domain; Docker Hub's mirrors before itself. `close` it at the end."""

    def __init__(self, settings: RegistrySettings, clock: Clock) -> None:
        self.settings = settings
        self._insecure = InsecureRegistries(settings.insecure)
        self._clock = clock
        self._clients = HTTPClients()
        self._registries: dict[str, Registry] = {}
        self._mirrors: tuple[Registry, ...] | None = None

    @property
    def insecure_networks(self) -> list[str]:
        """The networks whose registries may be spoken to without verified TLS."""
        return [str(network) for network in self._insecure.networks]

    def get(self, domain: str) -> Registry:
        """Return the registry of this domain of image names."""
        if domain not in self._registries:
            self._registries[domain] = Registry(domain, self._clients, self._clock, is_insecure=domain in self._insecure)
        return self._registries[domain]

    async def first_answer(
        self,
        reference: Reference,
        auth: RegistryAuth | None,
        ask: Callable[[Registry, RegistryAuth | None], Coroutine[Any, Any, T]],
    ) -> T:
        """Return the answer of the first registry that has one. Mirrors get no credentials, and their failures are not told.

        Raises what `ask` raises for the registry itself.
        """
        for mirror in self._mirrors_of(reference):
            try:
                return await contained(ask(mirror, None))
            except PyswarmError as error:
                _log.info("registry.mirror_failed", image=reference.familiar, reason=error.message)
        return await ask(self.get(reference.domain), auth)

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

    def _mirrors_of(self, reference: Reference) -> tuple[Registry, ...]:
        if reference.domain != DEFAULT_DOMAIN or not self.settings.mirrors:
            return ()
        if self._mirrors is None:
            self._mirrors = tuple(map(self._mirror, self.settings.mirrors))
        return self._mirrors

    def _mirror(self, url: str) -> Registry:
        is_insecure = url.partition("://")[2].rstrip("/") in self._insecure
        return Registry(DEFAULT_DOMAIN, self._clients, self._clock, is_insecure=is_insecure, mirror=url)


def domain_of_address(address: str) -> str:
    """Return the domain that `docker login ADDRESS` means: without a scheme and path, Docker Hub by any of its names or none."""
    host = address.partition("://")[2] if "://" in address else address
    host = host.partition("/")[0].strip()
    return DEFAULT_DOMAIN if host in ("", *_LEGACY_ADDRESSES) else host
