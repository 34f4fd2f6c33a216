"""How registries may be spoken to: which ones without verified TLS, and the pools of connections."""

import ipaddress
import ssl
from collections.abc import Sequence

import httpx

_TIMEOUT = httpx.Timeout(30, connect=10, pool=None)
_PORT_MAX = 65535
_HEADERS = {"user-agent": "pyswarm", "accept-encoding": "identity"}


class InsecureRegistries:
    """Which registries may be spoken to without verified TLS: networks, or host[:port]; this machine always."""

    def __init__(self, entries: Sequence[str] = ()) -> None:
        self.networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
        ]
        self._names = {"localhost"}
        for entry in entries:
            try:
                self.networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry)

    def __contains__(self, domain: str) -> bool:
        host = httpx.URL(f"http://{domain}").host
        if domain in self._names or host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


class HTTPClients:
    """The connections to all registries: one pool that verifies certificates, one that does not."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    def get(self, *, verifies: bool) -> httpx.AsyncClient:
        """Return the pool, made on first use (reading the trusted certificates takes 20 ms)."""
        if verifies not in self._clients:
            context = ssl.create_default_context() if verifies else False
            # Proxies are for the outside; insecure registries are near.
            self._clients[verifies] = httpx.AsyncClient(
                verify=context, timeout=_TIMEOUT, headers=_HEADERS, trust_env=verifies, event_hooks={"request": [_check_port]}
            )
        return self._clients[verifies]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


async def _check_port(request: httpx.Request) -> None:
    """The event loop has no better for a port that is none than an OverflowError."""
    if request.url.port is not None and request.url.port > _PORT_MAX:
        raise httpx.ConnectError(f"dial tcp: address {request.url.port}: invalid port", request=request)
