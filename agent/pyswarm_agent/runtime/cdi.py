"""Devices of the Container Device Interface: what vendors' files say, and what it changes in an OCI bundle. Pure.

A file describes devices of one kind (`nvidia.com/gpu`) by what they add to a bundle: device nodes, mounts, variables, hooks.
Format: CNCF `container-device-interface` SPEC.md, versions 0.3 to 1.x. Reading the files: `cdi_files`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_agent.runtime.oci_resources import oci_device
from pyswarm_common.errors import InvalidArgument

Json = dict[str, Any]
FindDevice = Callable[[str, str, str], DeviceNode]
"""Returns the node for a path of the host, its path in the container and access. Raises InvalidArgument."""

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class CdiNode(msgspec.Struct, frozen=True, rename="camel"):
    """A device node; what is missing is as on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CdiMount(msgspec.Struct, frozen=True, rename="camel"):
    """A mount."""

    host_path: str
    container_path: str
    options: list[str] | None = None
    type: str = ""


class CdiHook(msgspec.Struct, frozen=True, rename="camel"):
    """A program that the OCI runtime runs; `timeout` in seconds."""

    hook_name: str
    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class ContainerEdits(msgspec.Struct, frozen=True, rename="camel"):
    """What a device adds to a container."""

    env: list[str] | None = None
    device_nodes: list[CdiNode] | None = None
    mounts: list[CdiMount] | None = None
    hooks: list[CdiHook] | None = None
    additional_gids: list[int] | None = msgspec.field(default=None, name="additionalGids")


class CdiDevice(msgspec.Struct, frozen=True, rename="camel"):
    """One device of a file."""

    name: str
    container_edits: ContainerEdits = ContainerEdits()


class CdiSpec(msgspec.Struct, frozen=True, rename="camel"):
    """A vendor's file: its devices, and what each of them adds besides."""

    cdi_version: str
    kind: str
    devices: list[CdiDevice]
    container_edits: ContainerEdits = ContainerEdits()


def find_edits(names: Sequence[str], folders: Sequence[Sequence[CdiSpec]]) -> list[ContainerEdits]:
    """Return what these devices add, each file's own once, before its devices.

    `folders`: the files of each folder; a device in a later folder comes before one of the same name in an earlier one. Raises
    InvalidArgument for devices that are unknown or, in one folder, described twice.
    """
    unknown = []
    edits: list[ContainerEdits] = []
    used: list[CdiSpec] = []
    for name in names:
        found = next((matches for specs in reversed(folders) if (matches := _matches(name, specs))), [])
        if not found:
            unknown.append(name)
            continue
        if len(found) > 1:
            raise InvalidArgument(f"CDI device {name} is described by {len(found)} files of one folder; remove all but one")
        spec, device = found[0]
        if not any(each is spec for each in used):
            used.append(spec)
            edits.append(spec.container_edits)
        edits.append(device.container_edits)
    if unknown:
        raise InvalidArgument(
            f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}; "
            "have their vendor's tool describe them in /etc/cdi or /var/run/cdi, or run the container where they are"
        )
    return edits


def _matches(name: str, specs: Iterable[CdiSpec]) -> list[tuple[CdiSpec, CdiDevice]]:
    kind, _, device_name = name.partition("=")
    return [(spec, device) for spec in specs if spec.kind == kind for device in spec.devices if device.name == device_name]


def with_edits(oci: Json, edits: Iterable[ContainerEdits], find_device: FindDevice) -> Json:
    """Return the bundle with what devices add. Raises InvalidArgument."""
    process, linux = dict(oci["process"]), dict(oci["linux"])
    mounts, hooks = list(oci["mounts"]), {name: list(each) for name, each in oci.get("hooks", {}).items()}
    env = {variable.partition("=")[0]: variable for variable in process["env"]}
    devices = {device["path"]: device for device in linux.get("devices", ())}
    rules = list(linux["resources"]["devices"])
    groups = list(process["user"]["additionalGids"])
    for edit in edits:
        env |= {variable.partition("=")[0]: variable for variable in edit.env or ()}
        for node in edit.device_nodes or ():
            device = _device(node, find_device)
            devices[device.path] = oci_device(device)
            numbers = {"type": device.kind, "major": device.major, "minor": device.minor}
            rules.append({"allow": True, **numbers, "access": device.access})
        for mount in edit.mounts or ():
            mounts = [each for each in mounts if each["destination"] != mount.container_path]
            mounts.append(_mount(mount))
        for hook in edit.hooks or ():
            if hook.hook_name not in _HOOKS:
                raise InvalidArgument(f"CDI device injection failed: unknown hook {hook.hook_name!r}")
            hooks.setdefault(hook.hook_name, []).append(_hook(hook))
        groups = list(dict.fromkeys([*groups, *(gid for gid in edit.additional_gids or () if gid)]))
    process |= {"env": list(env.values()), "user": {**process["user"], "additionalGids": groups}}
    linux["resources"] = {**linux["resources"], "devices": rules}
    if devices:
        linux["devices"] = list(devices.values())
    return {**oci, "process": process, "linux": linux, "mounts": mounts, **({"hooks": hooks} if hooks else {})}


def _device(node: CdiNode, find_device: FindDevice) -> DeviceNode:
    access = node.permissions or "rwm"
    if node.type and node.major is not None and node.minor is not None:
        found = DeviceNode(node.path, node.type, node.major, node.minor, access=access)
    else:
        found = find_device(node.host_path or node.path, node.path, access)
    return found._replace(
        mode=found.mode if node.file_mode is None else node.file_mode & 0o7777,
        uid=found.uid if node.uid is None else node.uid,
        gid=found.gid if node.gid is None else node.gid,
    )


def _mount(mount: CdiMount) -> Json:
    options = mount.options or []
    if not mount.type and not {"bind", "rbind"} & set(options):
        options = ["rbind", *options]
    return {"type": mount.type or "bind", "source": mount.host_path, "destination": mount.container_path, "options": options}


def _hook(hook: CdiHook) -> Json:
    found: Json = {"path": hook.path}
    return found | {name: value for name, value in (("args", hook.args), ("env", hook.env), ("timeout", hook.timeout)) if value}
