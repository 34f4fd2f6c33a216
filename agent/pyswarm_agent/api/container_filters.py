"""Which containers a list or a prune asks for; pure.

Source: Moby `daemon/list.go` (`acceptedPsFilterTags`, `includeContainerInList`), `daemon/prune.go`.
"""

import re
from collections.abc import Sequence

from pyswarm_agent.api.container_networks import network_names
from pyswarm_agent.api.container_rendering import state_of
from pyswarm_agent.api.image_filters import until_ns
from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.health.rendering import health_filter_value
from pyswarm_agent.health.rules import Health
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.ports import parse_port, published_ports
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.errors import InvalidArgument

LIST_FILTERS = (
    *("id", "name", "label", "status", "ancestor", "health", "network", "volume"),
    *("publish", "expose", "is-task", "exited", "before", "since", "isolation"),
)
PRUNE_FILTERS = ("label", "label!", "until")
TASK_LABEL = "com.docker.swarm.task.id"
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_TRUE = ("true", "1", "True", "TRUE", "t", "T")


class ContainerFilter:
    """The filters of one list request. Raises InvalidArgument for values that mean nothing, NotFound for unknown containers."""

    def __init__(self, filters: Filters, containers: Sequence[ContainerRecord]) -> None:
        self._filters = filters
        for state in filters.values("status"):
            if state not in STATES:
                raise InvalidArgument(f"Unrecognised filter value for status: {state}")
        for code in filters.values("exited"):
            if not code.lstrip("-").isdigit():
                raise InvalidArgument(f"invalid filter 'exited={code}'")
        for health in filters.values("health"):
            if health not in ("starting", "healthy", "unhealthy", "none"):
                raise InvalidArgument(f"Unrecognised filter value for health: {health}")
        self._before = [find_container(containers, name).created_at_ns for name in filters.values("before")]
        self._since = [find_container(containers, name).created_at_ns for name in filters.values("since")]
        self._published = {port for text in filters.values("publish") for port in _ports(text)}
        self._exposed = {port for text in filters.values("expose") for port in _ports(text)}

    @property
    def shows_all(self) -> bool:
        """Whether it asks for more than what runs."""
        return any(key in self._filters for key in ("status", "exited", "before", "since"))

    def matches(self, container: ContainerRecord, held: Held | None, health: Health | None) -> bool:
        """Whether the container is asked for."""
        filters, config = self._filters, container.config
        names = filters.values("name")
        exit_code = str(container.exit.exit_code) if container.exit is not None else ""
        return (
            filters.allows_prefix("id", config.id)
            and (not names or any(_name_matches(pattern, config.name) for pattern in names))
            and filters.allows_labels("label", config.labels)
            and filters.allows("status", state_of(container, held))
            and filters.allows("health", health_filter_value(health))
            and filters.allows("exited", exit_code)
            and self._matches_image(container)
            and self._matches_places(container, held)
            and all((text in _TRUE) == (TASK_LABEL in config.labels) for text in filters.values("is-task"))
            and all(container.created_at_ns < at_ns for at_ns in self._before)
            and all(container.created_at_ns > at_ns for at_ns in self._since)
        )

    def _matches_image(self, container: ContainerRecord) -> bool:
        config, wanted = container.config, self._filters.values("ancestor")
        names = {config.image, config.image.partition("@")[0], config.image_id, config.image_id.removeprefix("sha256:")[:12]}
        names |= {name.removesuffix(":latest") for name in names} | {f"{name}:latest" for name in names}
        return not wanted or not names.isdisjoint(wanted)

    def _matches_places(self, container: ContainerRecord, held: Held | None) -> bool:
        networks, volumes = self._filters.values("network"), self._filters.values("volume")
        if networks and not any(
            text == name or id_.startswith(text) for text in networks for name, id_ in network_names(container, held).items()
        ):
            return False
        mounted = {place for mount in container.config.mounts for place in (mount.volume, mount.target, mount.source) if place}
        if volumes and mounted.isdisjoint(volumes):
            return False
        ports = published_ports(container, held)
        published = {(number, port.protocol) for port in ports for number in (port.host_port, port.container_port)}
        exposed = {parse_port(key) for key in (held.container.config.get("ExposedPorts") or {})} if held is not None else set()
        return (not self._published or not self._published.isdisjoint(published)) and (
            not self._exposed or not self._exposed.isdisjoint(exposed | published)
        )


def may_prune(container: ContainerRecord, filters: Filters, now_ns: int) -> bool:
    """Whether a prune with these filters may remove the container, if it does not run. Raises InvalidArgument."""
    labels = container.config.labels
    for text in filters.values("until"):
        if container.created_at_ns >= until_ns(text, now_ns):
            return False
    excluded = Filters({"label": filters.values("label!")})
    return filters.allows_labels("label", labels) and not ("label" in excluded and excluded.allows_labels("label", labels))


def _name_matches(pattern: str, name: str) -> bool:
    wanted = pattern.removeprefix("/")
    try:
        return re.search(wanted, name) is not None or re.search(pattern, f"/{name}") is not None
    except re.error:
        return wanted in name


def _ports(text: str) -> list[tuple[int, str]]:
    numbers, _, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    low, kind = parse_port(f"{first}/{protocol or 'tcp'}")
    high, _ = parse_port(f"{last or first}/{kind}")
    return [(number, kind) for number in range(low, high + 1)]
