"""A container's share of block devices, and its limits on them, as the OCI bundle has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyswarm_agent.runtime.device_nodes import DeviceNode, device_node
from pyswarm_agent.runtime.records import BlockLimitConfig, ContainerConfig
from pyswarm_common.errors import InvalidArgument

_MEMBERS = {
    "read_bps": "throttleReadBpsDevice",
    "write_bps": "throttleWriteBpsDevice",
    "read_iops": "throttleReadIOPSDevice",
    "write_iops": "throttleWriteIOPSDevice",
    "weight": "weightDevice",
}


def find_block_devices(limits: Sequence[BlockLimitConfig]) -> dict[str, DeviceNode]:
    """Return the devices that the limits name, by path. Raises InvalidArgument where there is none."""
    found = {}
    for limit in limits:
        try:
            node = device_node(limit.path, limit.path)
        except OSError:
            raise InvalidArgument(f"no such file or directory: {limit.path}: limits are of block devices of the host") from None
        if node is None or node.kind != "b":
            raise InvalidArgument(f"{limit.path} is no block device: limits are of block devices of the host")
        found[limit.path] = node
    return found


def block_io(config: ContainerConfig, devices: Mapping[str, DeviceNode], *, has_weights: bool) -> dict[str, Any]:
    """Return `linux.resources.blockIO`; pure. `has_weights`: whether the kernel shares block devices by weights."""
    found: dict[str, Any] = {}
    if config.block_weight and has_weights:
        found["weight"] = config.block_weight
    for limit in config.block_limits:
        if limit.kind != "weight" or has_weights:
            node, value = devices[limit.path], "weight" if limit.kind == "weight" else "rate"
            found.setdefault(_MEMBERS[limit.kind], []).append({"major": node.major, "minor": node.minor, value: limit.value})
    return found
