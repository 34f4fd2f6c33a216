"""The Container Device Interface: what vendors' descriptions change in a bundle."""

from typing import Any

import msgspec
import pytest

from pyswarm_agent.runtime.cdi import CdiSpec, find_edits, with_edits
from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_common.errors import InvalidArgument

BUNDLE: dict[str, Any] = {
    "process": {"env": ["A=1", "B=2"], "user": {"uid": 0, "gid": 0, "additionalGids": [0]}},
    "mounts": [{"destination": "/dev"}, {"destination": "/opt"}],
    "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
}


def find_device(source: str, target: str, access: str) -> DeviceNode:
    return DeviceNode(target, "c", 195, len(source), 0o660, 0, 44, access)


def spec(*names: str, edits: dict[str, Any] | None = None, **of_each: Any) -> CdiSpec:
    devices = [{"name": name, "containerEdits": {"env": [f"DEVICE={name}"], **of_each}} for name in names]
    return msgspec.convert({"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": devices, "containerEdits": edits or {}}, CdiSpec)


def merged(**edits: Any) -> dict[str, Any]:
    return with_edits(BUNDLE, find_edits(["v.com/gpu=0"], [[spec("0", **edits)]]), find_device)


def test_env_replaces_in_place() -> None:
    assert merged(env=["B=3", "C=4"])["process"]["env"] == ["A=1", "B=3", "C=4"]


def test_a_files_own_edits_come_once_and_first() -> None:
    edits = find_edits(["v.com/gpu=1", "v.com/gpu=0"], [[spec("0", "1", edits={"env": ["DEVICE=none", "ALL=1"]})]])
    assert [edit.env for edit in edits] == [["DEVICE=none", "ALL=1"], ["DEVICE=1"], ["DEVICE=0"]]


def test_later_folders_come_first() -> None:
    edits = find_edits(["v.com/gpu=0", "v.com/gpu=1"], [[spec("0", "1")], [spec("0", edits={"env": ["NEW=1"]})]])
    assert [edit.env for edit in edits] == [["NEW=1"], ["DEVICE=0"], None, ["DEVICE=1"]]


def test_unknown_and_ambiguous() -> None:
    with pytest.raises(InvalidArgument, match=r"unresolvable CDI devices v\.com/gpu=2, w\.com/x=0"):
        find_edits(["v.com/gpu=0", "v.com/gpu=2", "w.com/x=0"], [[spec("0")]])
    with pytest.raises(InvalidArgument, match="is described by 2 files"):
        find_edits(["v.com/gpu=0"], [[spec("0"), spec("0")]])


def test_device_nodes() -> None:
    nodes = [
        {"path": "/dev/a", "hostPath": "/dev/host-a", "permissions": "r"},
        {"path": "/dev/b", "type": "b", "major": 8, "minor": 1, "fileMode": 0o100600, "uid": 5},
    ]
    linux = merged(deviceNodes=nodes)["linux"]
    assert linux["devices"] == [
        {"path": "/dev/a", "type": "c", "major": 195, "minor": 11, "fileMode": 0o660, "uid": 0, "gid": 44},
        {"path": "/dev/b", "type": "b", "major": 8, "minor": 1, "fileMode": 0o600, "uid": 5, "gid": 0},
    ]
    assert linux["resources"]["devices"][1:] == [
        {"allow": True, "type": "c", "major": 195, "minor": 11, "access": "r"},
        {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "rwm"},
    ]


def test_mounts() -> None:
    mounts = [
        {"hostPath": "/h", "containerPath": "/opt"},
        {"hostPath": "/i", "containerPath": "/i", "options": ["ro", "bind"]},
        {"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs"},
    ]
    assert merged(mounts=mounts)["mounts"] == [
        {"destination": "/dev"},
        {"type": "bind", "source": "/h", "destination": "/opt", "options": ["rbind"]},
        {"type": "bind", "source": "/i", "destination": "/i", "options": ["ro", "bind"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": []},
    ]


def test_hooks_and_groups() -> None:
    hook = {"hookName": "createContainer", "path": "/usr/bin/hook", "args": ["hook", "x"], "timeout": 5}
    changed = merged(hooks=[hook], additionalGids=[0, 44, 44])
    assert changed["hooks"] == {"createContainer": [{"path": "/usr/bin/hook", "args": ["hook", "x"], "timeout": 5}]}
    assert changed["process"]["user"]["additionalGids"] == [0, 44]
    with pytest.raises(InvalidArgument, match="unknown hook 'atDinner'"):
        merged(hooks=[{"hookName": "atDinner", "path": "/x"}])


def test_the_bundle_itself_stays_as_it_was() -> None:
    before = msgspec.json.encode(BUNDLE)
    merged(env=["A=9"], deviceNodes=[{"path": "/dev/a"}], additionalGids=[7], mounts=[{"hostPath": "/", "containerPath": "/x"}])
    assert msgspec.json.encode(BUNDLE) == before
