"""Published ports: from the texts of `--publish` to the API's JSON, and from there to what docker prints. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from pyswarm_cli.key_values import parse_fields

PROTOCOLS = ("tcp", "udp", "sctp")
_FIELDS = {"target": "TargetPort", "published": "PublishedPort", "protocol": "Protocol", "mode": "PublishMode"}
_SHORT = re.compile(r"(?:(\d+(?:-\d+)?):)?(\d+(?:-\d+)?)(?:/([a-z]+))?", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)

Port = dict[str, Any]


class Removal(NamedTuple):
    """Which ports `--publish-rm` takes away: those of the tasks' port and protocol, in one mode or ("") in any."""

    target: int
    protocol: str
    mode: str

    def matches(self, port: Mapping[str, Any]) -> bool:
        """Whether a published port goes."""
        is_same = (port["TargetPort"], port.get("Protocol") or "tcp") == (self.target, self.protocol)
        return is_same and self.mode in ("", port.get("PublishMode") or "ingress")


def parse_publish(text: str) -> list[Port]:
    """Return the ports in `8080:80`, `53:53/udp`, `8000-8010:80-90`, or `published=8080,target=80,mode=host`.

    Without a published port the cluster chooses one. Raises click.BadParameter.
    """
    given = _members(text)
    if given.get("Protocol", "tcp") not in PROTOCOLS:
        raise click.BadParameter(f"--publish {text!r}: the protocol is tcp, udp or sctp")
    if given.get("PublishMode", "ingress") not in ("ingress", "host"):
        raise click.BadParameter(f"--publish {text!r}: the mode is ingress or host")
    common = {"Protocol": given.get("Protocol", "tcp"), "PublishMode": given.get("PublishMode", "ingress")}
    targets = _range(given["TargetPort"], text)
    if "PublishedPort" not in given:
        return [{**common, "TargetPort": target} for target in targets]
    published = _range(given["PublishedPort"], text)
    if len(targets) not in (1, len(published)):
        raise click.BadParameter(
            f"--publish {text!r}: invalid ranges specified for container and host Ports: "
            f"{given['TargetPort']} and {given['PublishedPort']}"
        )
    all_targets = targets if len(targets) == len(published) else targets * len(published)
    return [
        {**common, "PublishedPort": number, "TargetPort": target} for number, target in zip(published, all_targets, strict=True)
    ]


def parse_published(texts: Iterable[str]) -> list[Port]:
    """Return the ports in several such texts."""
    return [port for text in texts for port in parse_publish(text)]


def parse_removals(texts: Iterable[str]) -> list[Removal]:
    """Return what `--publish-rm` takes away; a published port there means nothing, as with docker."""
    removals = []
    for text in texts:
        mode = _members(text).get("PublishMode", "")
        removals += [Removal(port["TargetPort"], port["Protocol"], mode) for port in parse_publish(text)]
    return removals


def changed_ports(before: Iterable[Port], added: Iterable[str], removed: Iterable[str]) -> list[Port]:
    """Return a service's ports after `--publish-add` and `--publish-rm`."""
    removals = parse_removals(removed)
    kept = [port for port in before if not any(removal.matches(port) for removal in removals)]
    return [*kept, *(port for port in parse_published(added) if port not in kept)]


def ports_text(ports: Iterable[Mapping[str, Any]]) -> str:
    """Return the ports of the routing mesh as `service ls` shows them, neighbours together: `*:8000-8002->80-82/tcp`."""
    runs: list[list[tuple[int, int, str]]] = []
    in_mesh = [
        (port.get("Protocol", "tcp"), port.get("PublishedPort", 0), port["TargetPort"])
        for port in ports
        if port.get("PublishMode", "ingress") == "ingress" and port.get("PublishedPort")
    ]
    for protocol, published, target in sorted(in_mesh):
        if not runs or not _continues(runs[-1], published, target, protocol):
            runs.append([])
        runs[-1].append((published, target, protocol))
    return ", ".join(f"*:{_span(run, 0)}->{_span(run, 1)}/{run[0][2]}" for run in runs)


def port_lines(ports: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the lines of ports in `service inspect --pretty`."""
    return tuple(
        line
        for port in ports
        for line in (
            f"PublishedPort = {port.get('PublishedPort', 0)}",
            f" Protocol = {port.get('Protocol', 'tcp')}",
            f" TargetPort = {port['TargetPort']}",
            f" PublishMode = {port.get('PublishMode', 'ingress')}",
        )
    )


def _members(text: str) -> dict[str, str]:
    """The words of the text, by the API's names."""
    short = _SHORT.fullmatch(text)
    if short is not None:
        published, target, protocol = short.groups()
        found = {"PublishedPort": published, "TargetPort": target, "Protocol": protocol and protocol.lower()}
        return {name: value for name, value in found.items() if value}
    if "=" not in text:
        hint = ": an address of the host is not supported" if text.count(":") > 1 else ""
        raise click.BadParameter(f"--publish {text!r} is not PUBLISHED:TARGET[/PROTOCOL], such as 8080:80{hint}")
    given = parse_fields(text, "--publish", _FIELDS)
    if "TargetPort" not in given:
        raise click.BadParameter(f"--publish {text!r}: target=PORT is missing")
    return {name: value.lower() for name, value in given.items()}


def _range(text: str, whole: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last < 65536:
        raise click.BadParameter(f"--publish {whole!r}: {text!r} is not a port, nor a range of ports such as 8000-8010")
    return list(range(first, last + 1))


def _continues(run: Sequence[tuple[int, int, str]], published: int, target: int, protocol: str) -> bool:
    """Whether a port is the next of a run, in which either both numbers count up or only the published one does."""
    last_published, last_target, last_protocol = run[-1]
    step = target - last_target
    steps = {run[1][1] - run[0][1]} if len(run) > 1 else {0, 1}
    return (published, protocol) == (last_published + 1, last_protocol) and step in steps


def _span(run: Sequence[tuple[int, int, str]], position: int) -> str:
    first, last = run[0][position], run[-1][position]
    return str(first) if first == last else f"{first}-{last}"
