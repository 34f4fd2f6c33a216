"""`--mount` and `--publish`: from their texts to the API's JSON. Pure. Raises click.BadParameter."""

import re
from typing import Any

import click

from pyswarm_cli.key_values import parse_fields
from pyswarm_cli.units import parse_bytes

_MOUNT_FIELDS = {
    "type": "Type",
    "source": "Source",
    "src": "Source",
    "target": "Target",
    "dst": "Target",
    "destination": "Target",
    "readonly": "ReadOnly",
    "ro": "ReadOnly",
    "bind-propagation": "Propagation",
    "tmpfs-size": "SizeBytes",
    "tmpfs-mode": "Mode",
}
_MOUNT_TYPES = ("bind", "volume", "tmpfs")
_PUBLISH_FIELDS = {
    "target": "TargetPort",
    "published": "PublishedPort",
    "protocol": "Protocol",
    "mode": "PublishMode",
}
_SHORT_PUBLISH = re.compile(r"(?:(\d+):)?(\d+)(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def parse_mount(text: str) -> dict[str, Any]:
    """Return the mount in `type=bind,source=/srv,target=/data,readonly`."""
    given = parse_fields(text, "--mount", _MOUNT_FIELDS)
    mount: dict[str, Any] = {"Type": given.get("Type", "volume")}
    if mount["Type"] not in _MOUNT_TYPES:
        raise click.BadParameter(f"--mount {text!r}: the type is one of {', '.join(_MOUNT_TYPES)}")
    if "Target" not in given:
        raise click.BadParameter(f"--mount {text!r}: target=/PATH is missing")
    if mount["Type"] == "bind" and not given.get("Source"):
        raise click.BadParameter(f"--mount {text!r}: a bind mount needs source=/PATH")
    if mount["Type"] == "tmpfs" and given.get("Source"):
        raise click.BadParameter(f"--mount {text!r}: a tmpfs has no source")
    mount |= {name: given[name] for name in ("Source", "Target") if given.get(name)}
    if _flag(given.get("ReadOnly", "false"), text):
        mount["ReadOnly"] = True
    if "Propagation" in given:
        mount["BindOptions"] = {"Propagation": given["Propagation"]}
    tmpfs = _tmpfs_options(given, text)
    return {**mount, "TmpfsOptions": tmpfs} if tmpfs else mount


def _tmpfs_options(given: dict[str, str], text: str) -> dict[str, int]:
    try:
        options = {"SizeBytes": parse_bytes(given["SizeBytes"])} if "SizeBytes" in given else {}
        return {**options, "Mode": int(given["Mode"], 8)} if "Mode" in given else options
    except ValueError as error:
        raise click.BadParameter(f"--mount {text!r}: {error}") from None


def parse_publish(text: str) -> dict[str, Any]:
    """Return the port in `8080:80`, `53:53/udp`, or `published=8080,target=80,mode=host`."""
    port: dict[str, Any] = {"Protocol": "tcp", "PublishMode": "ingress"}
    short = _SHORT_PUBLISH.fullmatch(text)
    if short is not None:
        published, target, protocol = short.groups()
        port["Protocol"] = (protocol or "tcp").lower()
        port["TargetPort"] = _port(target, text)
        return {**port, "PublishedPort": _port(published, text)} if published else port
    if "=" not in text:
        raise click.BadParameter(f"--publish {text!r} is not PUBLISHED:TARGET[/PROTOCOL], such as 8080:80")
    given = parse_fields(text, "--publish", _PUBLISH_FIELDS)
    if "TargetPort" not in given:
        raise click.BadParameter(f"--publish {text!r}: target=PORT is missing")
    for name, value in given.items():
        port[name] = _port(value, text) if name.endswith("Port") else value.lower()
    if port["Protocol"] not in ("tcp", "udp", "sctp") or port["PublishMode"] not in ("ingress", "host"):
        raise click.BadParameter(f"--publish {text!r}: protocol is tcp, udp or sctp; mode is ingress or host")
    return port


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise click.BadParameter(f"--publish {whole!r}: {text!r} is not a port")
    return int(text)


def _flag(text: str, whole: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise click.BadParameter(f"--mount {whole!r}: readonly is true or false")
    return text.lower() in ("true", "1")
