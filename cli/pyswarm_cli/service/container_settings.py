"""From the options of `container_options` to members of a `ContainerSpec` in the Engine API's JSON. Pure, but for profiles' files.

Raises click.BadParameter.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pyswarm_cli.service.rules import Options, given
from pyswarm_common.container_settings import check_capability, check_sysctl, check_ulimit
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.host_access import CDI_DEVICES, DEVICES, PRIVILEGED, check_cdi_name, parse_device

GPU_KIND = "nvidia.com/gpu"
_DNS = {"dns": "Nameservers", "dns_search": "Search", "dns_option": "Options"}
_FLAGS = {"init": "Init", "tty": "TTY", "read_only": "ReadOnly"}
Members = dict[str, Any]


def container_members(options: Options) -> Members:
    """Return what `create` says of these."""
    return given(
        {
            "Groups": list(options["group"]),
            "Hosts": [parse_host(text) for text in options["host"]],
            "DNSConfig": given({member: list(options[option]) for option, member in _DNS.items()}),
            "Sysctls": dict(parse_sysctl(text) for text in options["sysctl"]),
            "Ulimits": [parse_ulimit(text) for text in options["ulimit"]],
            "CapabilityAdd": [parse_capability(name) for name in options["cap_add"]],
            "CapabilityDrop": [parse_capability(name) for name in options["cap_drop"]],
            "Privileges": parse_security(options["security_opt"]),
            "OomScoreAdj": options["oom_score_adj"],
            **{member: options[option] for option, member in _FLAGS.items()},
        }
    )


def access_labels(options: Options) -> dict[str, str]:
    """Return the container labels that ask for devices and privileges on `create`."""
    devices, cdi = _devices(options["device"])
    cdi = [*cdi, *gpu_devices(options["gpus"])]
    return given({PRIVILEGED: "true" if options["privileged"] else "", DEVICES: ",".join(devices), CDI_DEVICES: ",".join(cdi)})


def changed_members(before: Mapping[str, Any], options: Options) -> Members:
    """Return the members of a container that `update` changes, and its labels if those do."""
    changed: Members = {member: options[option] for option, member in _FLAGS.items() if options[option] is not None}
    if options["oom_score_adj"] is not None:
        changed["OomScoreAdj"] = options["oom_score_adj"]
    if options["security_opt"]:
        changed["Privileges"] = {**(before.get("Privileges") or {}), **parse_security(options["security_opt"])}
    changed |= _changed_lists(before, options)
    changed |= _changed_capabilities(before, options)
    if any(options[name] for name in ("dns_add", "dns_rm", "dns_search_add", "dns_search_rm", "dns_option_add", "dns_option_rm")):
        changed["DNSConfig"] = _changed_dns(before.get("DNSConfig") or {}, options)
    labels = _changed_access(before.get("Labels") or {}, options)
    return changed if labels is None else {**changed, "Labels": labels}


def swap_members(options: Options) -> Members:
    """Return what the options say of swap, as members of `Resources`."""
    return given({}, SwapBytes=options["memory_swap"], MemorySwappiness=options["memory_swappiness"])


def parse_host(text: str) -> str:
    """Return the line of /etc/hosts for `name:address` (or `name=address`)."""
    name, _, address = text.partition("=") if "=" in text else text.partition(":")
    if not name or not address:
        raise click.BadParameter(f"bad format for add-host: {text!r}; expected HOST:IP")
    return f"{address.strip('[]')} {name}"


def parse_sysctl(text: str) -> tuple[str, str]:
    """Return name and value in `net.core.somaxconn=1024`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"--sysctl {text!r} is not NAME=VALUE")
    _checked(check_sysctl, name)
    return name, value


def parse_ulimit(text: str) -> Members:
    """Return the limit in `nofile=1024:2048`; without the second number both are the same."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        limits = int(soft), int(hard or soft)
    except ValueError:
        raise click.BadParameter(f"invalid ulimit argument: {text}; expected NAME=SOFT[:HARD], such as nofile=1024") from None
    _checked(check_ulimit, name, *limits)
    return {"Name": name, "Soft": limits[0], "Hard": limits[1]}


def parse_capability(name: str) -> str:
    """Return a capability as the API writes it: `CAP_NET_ADMIN`, or `ALL`."""
    normal = str(_checked(check_capability, name))
    return "ALL" if normal == "CAP_ALL" else normal


def parse_security(texts: Iterable[str]) -> Members:
    """Return the `Privileges` for `no-new-privileges`, `seccomp=FILE` and so on, which is read."""
    privileges: Members = {}
    for text in texts:
        match text.replace(":", "=", 1).split("=", 1):
            case ["no-new-privileges"] | ["no-new-privileges", "true"]:
                privileges["NoNewPrivileges"] = True
            case ["no-new-privileges", "false"]:
                privileges["NoNewPrivileges"] = False
            case ["seccomp", "unconfined" | "builtin" as mode]:
                privileges["Seccomp"] = {"Mode": "unconfined" if mode == "unconfined" else "default"}
            case ["seccomp", path]:
                privileges["Seccomp"] = {"Mode": "custom", "Profile": _profile(path)}
            case ["apparmor", "unconfined"]:
                privileges["AppArmor"] = {"Mode": "disabled"}
            case _:
                raise click.BadParameter(
                    f"--security-opt {text!r}: known are no-new-privileges, seccomp=FILE, seccomp=unconfined, apparmor=unconfined"
                )
    return privileges


def gpu_devices(text: str | None) -> list[str]:
    """Return the CDI devices for `all`, for a number of GPUs, or for `device=0,1`."""
    if not text:
        return []
    wanted = text.strip('"').removeprefix("device=").removeprefix("count=")
    if wanted.isdecimal() and "device=" not in text:
        return [f"{GPU_KIND}={number}" for number in range(int(wanted))]
    return [str(_checked(check_cdi_name, f"{GPU_KIND}={name}")) for name in wanted.split(",")]


def _profile(path: str) -> str:
    try:
        return base64.b64encode(Path(path).read_bytes()).decode()
    except OSError as error:
        raise click.BadParameter(f"opening seccomp profile ({path}) failed: {error.strerror}") from None


def _devices(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Devices by path, and those by CDI's names."""
    paths, names = [], []
    for text in texts:
        if text.startswith("/"):
            _checked(parse_device, text)
            paths.append(text)
        else:
            names.append(str(_checked(check_cdi_name, text)))
    return paths, names


def _changed_lists(before: Mapping[str, Any], options: Options) -> Members:
    changed: Members = {}
    if options["group_add"] or options["group_rm"]:
        changed["Groups"] = _replaced(before.get("Groups") or (), options["group_add"], options["group_rm"], str)
    if options["host_add"] or options["host_rm"]:
        removed = [text.partition("=" if "=" in text else ":")[0] for text in options["host_rm"]]
        kept = [line for line in before.get("Hosts") or () if not set(line.split()[1:]) & set(removed)]
        changed["Hosts"] = list(dict.fromkeys([*kept, *map(parse_host, options["host_add"])]))
    if options["sysctl_add"] or options["sysctl_rm"]:
        settings = {**(before.get("Sysctls") or {}), **dict(map(parse_sysctl, options["sysctl_add"]))}
        changed["Sysctls"] = {name: value for name, value in settings.items() if name not in options["sysctl_rm"]}
    if options["ulimit_add"] or options["ulimit_rm"]:
        added = map(parse_ulimit, options["ulimit_add"])
        changed["Ulimits"] = _replaced(before.get("Ulimits") or (), added, options["ulimit_rm"], lambda each: each["Name"])
    return changed


def _changed_capabilities(before: Mapping[str, Any], options: Options) -> Members:
    """Who adds a capability means that it is not dropped any more, and the other way round."""
    if not options["cap_add"] and not options["cap_drop"]:
        return {}
    add, drop = map(parse_capability, options["cap_add"]), [parse_capability(name) for name in options["cap_drop"]]
    added = dict.fromkeys([*(name for name in before.get("CapabilityAdd") or () if name not in drop), *add])
    dropped = dict.fromkeys(name for name in (*(before.get("CapabilityDrop") or ()), *drop) if name not in added)
    return {"CapabilityAdd": list(added), "CapabilityDrop": list(dropped)}


def _changed_dns(before: Mapping[str, Any], options: Options) -> Members:
    changed = dict(before)
    for option, member in _DNS.items():
        added, removed = options[f"{option}_add"], options[f"{option}_rm"]
        if added or removed:
            changed[member] = _replaced(before.get(member) or (), added, removed, str)
    return changed


def _changed_access(before: Mapping[str, str], options: Options) -> dict[str, str] | None:
    added, removed = options["device_add"], options["device_rm"]
    privileged = options["privileged"]
    if not added and not removed and not options["gpus"] and privileged is None:
        return None
    labels = dict(before)
    if privileged is not None:
        labels[PRIVILEGED] = "true" if privileged else ""
    paths, names = _devices(added)
    for label, new in ((DEVICES, paths), (CDI_DEVICES, [*names, *gpu_devices(options["gpus"])])):
        present = [part.strip() for part in labels.get(label, "").split(",") if part.strip()]
        labels[label] = ",".join(_replaced(present, new, removed, lambda text: text.partition(":")[0]))
    return {name: value for name, value in labels.items() if value or name not in (PRIVILEGED, DEVICES, CDI_DEVICES)}


def _replaced(before: Sequence[Any], added: Iterable[Any], removed: Sequence[str], key: Callable[[Any], str]) -> list[Any]:
    members = {key(each): each for each in before} | {key(each): each for each in added}
    return [each for name, each in members.items() if name not in removed]


def _checked(check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except InvalidArgument as error:
        raise click.BadParameter(error.message) from None
