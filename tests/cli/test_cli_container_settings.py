"""Options of `service create` and `update` for what surrounds a container's processes."""

import base64
from pathlib import Path
from typing import Any

import click
import pytest
from test_cli_service_spec import created, options_of

from pyswarm_cli.service.changed_spec import updated_spec
from pyswarm_cli.service.commands import update
from pyswarm_cli.service.container_settings import gpu_devices, parse_security
from pyswarm_cli.service.mounts import parse_mount


def container(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = created(*arguments, "nginx")["TaskTemplate"]["ContainerSpec"]
    return {key: value for key, value in found.items() if key != "Image"}


def updated(before: dict[str, Any], *arguments: str) -> dict[str, Any]:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": before}}
    found: dict[str, Any] = updated_spec(spec, options_of(update, *arguments, "web"), {})["TaskTemplate"]["ContainerSpec"]
    return found


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ("", {}),
        ("--group staff --group 7", {"Groups": ["staff", "7"]}),
        ("--host db:10.0.0.1 --host six:::1 --host v=[::2]", {"Hosts": ["10.0.0.1 db", "::1 six", "::2 v"]}),
        (
            "--dns 9.9.9.9 --dns-search a.b --dns-option ndots:2",
            {"DNSConfig": {"Nameservers": ["9.9.9.9"], "Search": ["a.b"], "Options": ["ndots:2"]}},
        ),
        ("--sysctl net.core.somaxconn=9", {"Sysctls": {"net.core.somaxconn": "9"}}),
        (
            "--ulimit nofile=1:2 --ulimit core=-1",
            {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}, {"Name": "core", "Soft": -1, "Hard": -1}]},
        ),
        ("--init --tty --read-only --oom-score-adj -5", {"Init": True, "TTY": True, "ReadOnly": True, "OomScoreAdj": -5}),
        ("--cap-add net_admin --cap-drop all", {"CapabilityAdd": ["CAP_NET_ADMIN"], "CapabilityDrop": ["ALL"]}),
        ("--privileged", {"Labels": {"pyswarm.privileged": "true"}}),
        (
            "--device /dev/a:/dev/b:r --device v.com/x=1 --gpus 2",
            {"Labels": {"pyswarm.devices": "/dev/a:/dev/b:r", "pyswarm.cdi": "v.com/x=1,nvidia.com/gpu=0,nvidia.com/gpu=1"}},
        ),
        (
            "--security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt apparmor:unconfined",
            {"Privileges": {"NoNewPrivileges": True, "Seccomp": {"Mode": "unconfined"}, "AppArmor": {"Mode": "disabled"}}},
        ),
    ],
)
def test_create(line: str, members: dict[str, Any]) -> None:
    assert container(*line.split()) == members


def test_swap() -> None:
    spec = created("--limit-memory", "64m", "--memory-swap", "-1", "--memory-swappiness", "0", "nginx")
    assert spec["TaskTemplate"]["Resources"] == {"Limits": {"MemoryBytes": 64 << 20}, "SwapBytes": -1, "MemorySwappiness": 0}
    assert created("--memory-swap", "1m", "nginx")["TaskTemplate"]["Resources"] == {"SwapBytes": 1 << 20}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--host db", "expected HOST:IP"),
        ("--sysctl a", "is not NAME=VALUE"),
        ("--sysctl kernel.panic=1", "sysctl 'kernel.panic' is not allowed"),
        ("--ulimit nofile", "expected NAME=SOFT"),
        ("--ulimit x=1", "invalid ulimit type: x"),
        ("--ulimit nofile=2:1", "2 > 1"),
        ("--cap-add fly", "unknown capability"),
        ("--device gpu", "invalid CDI device name 'gpu'"),
        ("--device /dev/a:q", "bad mode specified: q"),
        ("--oom-score-adj 2000", "not in the range"),
        ("--security-opt label=disable", "known are no-new-privileges"),
        ("--security-opt seccomp=/nowhere", "opening seccomp profile"),
        ("--gpus device=a/b", "invalid CDI device name"),
    ],
)
def test_create_refuses(line: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        container(*line.split())


def test_seccomp_profile_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    assert parse_security([f"seccomp={tmp_path}/p.json"]) == {
        "Seccomp": {"Mode": "custom", "Profile": base64.b64encode(b"{}").decode()}
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [("all", ["all"]), ("2", ["0", "1"]), ("device=0,3", ["0", "3"]), ("device=0", ["0"]), ("", [])],
)
def test_gpus(text: str, names: list[str]) -> None:
    assert gpu_devices(text) == [f"nvidia.com/gpu={name}" for name in names]


BEFORE: dict[str, Any] = {
    "Image": "nginx",
    "Groups": ["staff"],
    "Hosts": ["10.0.0.1 db", "10.0.0.2 web www"],
    "DNSConfig": {"Nameservers": ["9.9.9.9"], "Search": ["a"]},
    "Sysctls": {"net.a": "1", "net.b": "2"},
    "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}],
    "CapabilityAdd": ["CAP_KILL"],
    "CapabilityDrop": ["CAP_CHOWN"],
    "Labels": {"x": "y", "pyswarm.devices": "/dev/a:/dev/b,/dev/c", "pyswarm.privileged": "true"},
    "Privileges": {"NoNewPrivileges": True},
    "TTY": True,
    "OomScoreAdj": 5,
}


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("", {}),
        ("--group-add x --group-rm staff", {"Groups": ["x"]}),
        ("--host-add new:1.1.1.1 --host-rm www:10.0.0.2", {"Hosts": ["10.0.0.1 db", "1.1.1.1 new"]}),
        ("--dns-add 8.8.8.8 --dns-search-rm a", {"DNSConfig": {"Nameservers": ["9.9.9.9", "8.8.8.8"], "Search": []}}),
        ("--dns-option-add ndots:1", {"DNSConfig": {**BEFORE["DNSConfig"], "Options": ["ndots:1"]}}),
        ("--sysctl-add net.b=3 --sysctl-rm net.a", {"Sysctls": {"net.b": "3"}}),
        (
            "--ulimit-add nofile=5 --ulimit-add core=1",
            {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}, {"Name": "core", "Soft": 1, "Hard": 1}]},
        ),
        ("--ulimit-rm nofile", {"Ulimits": []}),
        ("--cap-add CHOWN", {"CapabilityAdd": ["CAP_KILL", "CAP_CHOWN"], "CapabilityDrop": []}),
        ("--cap-drop KILL", {"CapabilityAdd": [], "CapabilityDrop": ["CAP_CHOWN", "CAP_KILL"]}),
        ("--no-tty --init --read-only", {"TTY": False, "Init": True, "ReadOnly": True}),
        ("--no-init", {"Init": False}),
        ("--oom-score-adj 0", {"OomScoreAdj": 0}),
        ("--security-opt no-new-privileges=false", {"Privileges": {"NoNewPrivileges": False}}),
        ("--no-privileged --device-rm /dev/a", {"Labels": {"x": "y", "pyswarm.devices": "/dev/c"}}),
        ("--device-add /dev/a:r --device-rm /dev/c --no-privileged", {"Labels": {"x": "y", "pyswarm.devices": "/dev/a:r"}}),
        ("--device-add v.com/x=1", {"Labels": {**BEFORE["Labels"], "pyswarm.cdi": "v.com/x=1"}}),
        ("--container-label-add z=1 --gpus all", {"Labels": {**BEFORE["Labels"], "z": "1", "pyswarm.cdi": "nvidia.com/gpu=all"}}),
    ],
)
def test_update(line: str, changes: dict[str, Any]) -> None:
    assert updated(BEFORE, *line.split()) == {**BEFORE, **changes}


def test_update_of_swap() -> None:
    spec = {"Name": "web", "TaskTemplate": {"Resources": {"Limits": {"Pids": 1}, "SwapBytes": 5}}}
    changed = updated_spec(spec, options_of(update, "--memory-swap", "0", "web"), {})
    assert changed["TaskTemplate"]["Resources"] == {"Limits": {"Pids": 1}, "SwapBytes": 0}


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("type=bind,src=/a,dst=/b,bind-recursive=disabled", {"BindOptions": {"NonRecursive": True}}),
        ("type=bind,src=/a,dst=/b,ro,bind-recursive=readonly", {"ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True}}),
        ("type=bind,src=/a,dst=/b,bind-recursive=writable", {"BindOptions": {"ReadOnlyNonRecursive": True}}),
        ("type=bind,src=/a,dst=/b,bind-nonrecursive,consistency=cached", {"BindOptions": {"NonRecursive": True}}),
        ("type=bind,src=/a,dst=/b,bind-create-src", {"BindOptions": {"CreateMountpoint": True}}),
        ("src=v,dst=/b,volume-nocopy,volume-subpath=x/y", {"VolumeOptions": {"NoCopy": True, "Subpath": "x/y"}}),
        (
            'src=v,dst=/b,volume-driver=local,volume-opt=type=nfs,"volume-opt=o=addr=10.0.0.1,rw",volume-label=a=b,volume-label=c',
            {
                "VolumeOptions": {
                    "Labels": {"a": "b", "c": ""},
                    "DriverConfig": {"Name": "local", "Options": {"type": "nfs", "o": "addr=10.0.0.1,rw"}},
                }
            },
        ),
    ],
)
def test_mount_options(text: str, members: dict[str, Any]) -> None:
    mount = parse_mount(text)
    assert {key: value for key, value in mount.items() if key not in ("Type", "Source", "Target")} == members


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type=bind,src=/a,dst=/b,bind-recursive=maybe", "bind-recursive is one of"),
        ("type=bind,src=/a,dst=/b,bind-recursive=readonly", "requires readonly"),
        ("type=bind,src=/a,dst=/b,volume-opt=a=b", r"cannot mix 'volume-\*' options with mount type 'bind'"),
        ("type=tmpfs,dst=/b,bind-propagation=rslave", r"cannot mix 'bind-\*' options with mount type 'tmpfs'"),
        ("type=tmpfs,dst=/b,tmpfs-mode=9", "invalid literal"),
        ("src=v,dst=/b,volume-nocopy=perhaps", "volume-nocopy is true or false"),
    ],
)
def test_mount_options_that_do_not_fit(text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        parse_mount(text)
