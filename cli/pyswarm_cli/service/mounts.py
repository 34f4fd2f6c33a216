"""`--mount`: from its text to the API's JSON. Pure. Raises click.BadParameter."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import click

from pyswarm_cli.key_values import parse_fields, parse_labels
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
    "bind-propagation": "bind-propagation",
    "bind-recursive": "bind-recursive",
    "bind-nonrecursive": "bind-nonrecursive",
    "bind-create-src": "bind-create-src",
    "volume-driver": "volume-driver",
    "volume-nocopy": "volume-nocopy",
    "volume-subpath": "volume-subpath",
    "tmpfs-size": "tmpfs-size",
    "tmpfs-mode": "tmpfs-mode",
    "consistency": "consistency",
}
_REPEATABLE = ("volume-label", "volume-opt")
_RECURSIONS = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}
_MOUNT_TYPES = ("bind", "volume", "tmpfs")


def parse_mount(text: str) -> dict[str, Any]:
    """Return the mount in `type=bind,source=/srv,target=/data,readonly`."""
    given, pairs = _members(text)
    mount: dict[str, Any] = {"Type": given.get("Type", "volume")}
    kind = mount["Type"]
    if kind not in _MOUNT_TYPES:
        raise click.BadParameter(f"--mount {text!r}: the type is one of {', '.join(_MOUNT_TYPES)}")
    if "Target" not in given:
        raise click.BadParameter(f"--mount {text!r}: target=/PATH is missing")
    if kind == "bind" and not given.get("Source"):
        raise click.BadParameter(f"--mount {text!r}: a bind mount needs source=/PATH")
    if kind == "tmpfs" and given.get("Source"):
        raise click.BadParameter(f"--mount {text!r}: a tmpfs has no source")
    for name in (*given, *pairs):
        other = name.partition("-")[0]
        if other in _MOUNT_TYPES and other != kind:
            raise click.BadParameter(f"--mount {text!r}: cannot mix '{other}-*' options with mount type '{kind}'")
    mount |= {name: given[name] for name in ("Source", "Target") if given.get(name)}
    if _flag(given, "ReadOnly", text):
        mount["ReadOnly"] = True
    options = {"bind": _bind_options, "volume": _volume_options, "tmpfs": _tmpfs_options}[kind](given, text)
    if kind == "volume":
        options |= _pairs(pairs, given)
    return {**mount, f"{kind.capitalize()}Options": options} if options else mount


def _members(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The members, and those that may be there several times."""
    single: list[str] = []
    pairs: dict[str, list[str]] = {}
    for part in next(csv.reader([text]), []):
        key, _, value = part.partition("=")
        if key.strip().lower() in _REPEATABLE:
            pairs.setdefault(key.strip().lower(), []).append(value)
        else:
            single.append(part)
    return parse_fields(_joined(single), "--mount", _MOUNT_FIELDS), pairs


def _bind_options(given: dict[str, str], text: str) -> dict[str, Any]:
    recursion = given.get("bind-recursive", "enabled")
    if recursion not in _RECURSIONS:
        raise click.BadParameter(f"--mount {text!r}: bind-recursive is one of {', '.join(_RECURSIONS)}")
    if recursion == "readonly" and not _flag(given, "ReadOnly", text):
        raise click.BadParameter(f"--mount {text!r}: bind-recursive=readonly requires readonly to be set")
    options: dict[str, Any] = dict(_RECURSIONS[recursion])
    if "bind-propagation" in given:
        options["Propagation"] = given["bind-propagation"]
    if _flag(given, "bind-nonrecursive", text):
        options["NonRecursive"] = True
    if _flag(given, "bind-create-src", text):
        options["CreateMountpoint"] = True
    return options


def _volume_options(given: dict[str, str], text: str) -> dict[str, Any]:
    options: dict[str, Any] = {"NoCopy": True} if _flag(given, "volume-nocopy", text) else {}
    return {**options, "Subpath": given["volume-subpath"]} if given.get("volume-subpath") else options


def _pairs(pairs: dict[str, list[str]], given: dict[str, str]) -> dict[str, Any]:
    """Labels of a volume, and its driver with options."""
    found: dict[str, Any] = {"Labels": parse_labels(pairs["volume-label"])} if "volume-label" in pairs else {}
    if "volume-opt" in pairs or "volume-driver" in given:
        driver = {"Name": given["volume-driver"]} if given.get("volume-driver") else {}
        options = {"Options": parse_labels(pairs["volume-opt"])} if "volume-opt" in pairs else {}
        found["DriverConfig"] = {**driver, **options}
    return found


def _tmpfs_options(given: dict[str, str], text: str) -> dict[str, Any]:
    try:
        options = {"SizeBytes": parse_bytes(given["tmpfs-size"])} if "tmpfs-size" in given else {}
        return {**options, "Mode": int(given["tmpfs-mode"], 8)} if "tmpfs-mode" in given else options
    except ValueError as error:
        raise click.BadParameter(f"--mount {text!r}: {error}") from None


def _joined(parts: Iterable[str]) -> str:
    """The parts as one text again, quoted where they must be."""
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(list(parts))
    return written.getvalue()


def _flag(given: dict[str, str], name: str, whole: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "1", "false", "0"):
        raise click.BadParameter(f"--mount {whole!r}: {name.lower()} is true or false")
    return value in ("true", "1")
