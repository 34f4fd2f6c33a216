"""The networks of a task's container as Docker shows them; pure. (Those of local containers: `container_rendering`.)"""

import hashlib
from typing import Any

from pyswarm_agent.runtime.records import ContainerRecord


def task_networks(container: ContainerRecord) -> dict[str, dict[str, Any]]:
    """Return the networks by name; addresses while the container runs."""
    config = container.config
    found = {}
    for network in config.networks:
        address, _, prefix = (network.address if container.is_live else "").partition("/")
        endpoint = hashlib.sha256(f"endpoint {config.id} {network.id}".encode()).hexdigest()
        found[network.name] = {
            "IPAMConfig": {"IPv4Address": network.address.partition("/")[0]} if network.address else None,
            "Links": None,
            "Aliases": [config.id[:12]] if network.address else None,
            "NetworkID": network.id,
            "EndpointID": endpoint if container.is_live else "",
            "Gateway": "",
            "IPAddress": address,
            "IPPrefixLen": int(prefix or 0),
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": "02:42:" + ":".join(f"{int(part):02x}" for part in address.split(".")) if address else "",
            "DriverOpts": None,
        }
    return found
