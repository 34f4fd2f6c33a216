"""From a task to its container: placeholders, confinement, limits, access to the machine, names."""

import base64
import contextlib
import time

import msgspec
import pytest
from test_container_config import ASSIGNMENT, IMAGE, NODE, Place, build

from pyswarm_agent.mount_config import bind_config, tmpfs_config
from pyswarm_agent.runtime.records import DeviceConfig, MountConfig, UlimitConfig
from pyswarm_common.container_spec import Mount
from pyswarm_common.errors import InvalidArgument, PermissionDenied
from pyswarm_common.objects import NodePermissions

OWN_RESOLVER = "nameserver 127.0.0.11\noptions ndots:0\n"
LABELS = {"pyswarm.privileged": "true", "pyswarm.devices": "/dev/kvm:/dev/vm:r", "pyswarm.cdi": "nvidia.com/gpu=0"}


def test_labels_of_the_service_in_placeholders() -> None:
    labelled = msgspec.structs.replace(ASSIGNMENT, service_labels={"tier": "front", "a.b/c": "x"})
    env = [
        'A={{index .Service.Labels "tier"}}',
        "B={{ index .Service.Labels `a.b/c` }}",
        "C={{.Service.Labels.tier}}",
        'D={{index .Service.Labels "none"}}',
        "E={{.Service.Labels}}",
        'F={{"{{"}}',
        "G={{.Node.Platform.Architecture}}/{{.Node.Platform.OS}}",
    ]
    config = build({"Env": env}, assignment=labelled)
    expected = ("A=front", "B=x", "C=front", "D=", "E=map[a.b/c:x tier:front]", "F={{", "G=x86_64/linux")
    assert config.env[-7:] == expected


@pytest.mark.parametrize("text", ['{{index .Nope "x"}}', "{{.Task.Slot.x}}", "{{index .Service.Name}}", "{{env}}"])
def test_placeholders_that_mean_nothing(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expanding env failed: cannot evaluate"):
        build({"Env": [f"A={text}"]})


@pytest.mark.parametrize("text", ["{{" + " " * 100_000, "{{ " * 50_000, "{{/*}}" * 50_000, "{{" + "\n" * 900 + "}}"])
def test_hostile_placeholders_hold_nothing_up(text: str) -> None:
    before_s = time.process_time()
    with contextlib.suppress(InvalidArgument):
        build({"Env": [f"A={text}"]})
    assert time.process_time() - before_s < 1


def test_variables_do_not_grow_without_end() -> None:
    labelled = msgspec.structs.replace(ASSIGNMENT, service_labels={"a": "x" * 100_000})
    with pytest.raises(InvalidArgument, match="expanding env failed: it becomes longer than"):
        build({"Env": ["A={{.Service.Labels.a}}{{.Service.Labels.a}}"]}, assignment=labelled)
    with pytest.raises(InvalidArgument, match="expanding env failed: all variables together"):
        build({"Env": [f"A{number}={{{{.Service.Labels.a}}}}" for number in range(100)]}, assignment=labelled)


def test_confinement_and_limits() -> None:
    profile = base64.b64encode(b'{"defaultAction": "SCMP_ACT_ALLOW"}').decode()
    privileges = {
        "Seccomp": {"Mode": "custom", "Profile": profile},
        "AppArmor": {"Mode": "disabled"},
        "NoNewPrivileges": True,
    }
    config = build(
        {
            "Privileges": privileges,
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "Sysctls": {"kernel.msgmax": "1"},
            "OomScoreAdj": -5,
            "OpenStdin": True,
            "Init": True,
        },
        Resources={"SwapBytes": 0, "MemorySwappiness": 3, "Reservations": {"MemoryBytes": 9}},
    )
    assert (config.seccomp, config.apparmor) == ('{"defaultAction": "SCMP_ACT_ALLOW"}', "unconfined")
    assert (config.no_new_privileges, config.open_stdin, config.init) == (True, True, True)
    assert config.ulimits == (UlimitConfig(name="nofile", soft=1, hard=2),)
    assert (config.sysctls, config.oom_score_adj) == ({"kernel.msgmax": "1"}, -5)
    assert (config.swap_bytes, config.memory_swappiness, config.memory_reservation_bytes) == (0, 3, 9)
    assert build({"Privileges": {"Seccomp": {"Mode": "unconfined"}}}).seccomp == "unconfined"
    assert build({}, Resources={"MemorySwappiness": -1}).memory_swappiness is None


def test_profile_that_is_no_base64() -> None:
    with pytest.raises(InvalidArgument, match="not base64"):
        build({"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "{}"}}})


def test_access_to_the_machine_must_be_allowed() -> None:
    words = "node host-a does not allow privileged containers and device /dev/kvm and CDI device nvidia.com/gpu=0: its operator "
    options = "can, by starting pyswarmd there with --allow-privileged --allow-device /dev/kvm --allow-cdi nvidia.com/gpu=0"
    with pytest.raises(PermissionDenied, match=words + options):
        build({"Labels": LABELS})
    permissions = NodePermissions(allows_privileged=True, devices=("/dev/k*",), cdi_devices=("nvidia.com/*",))
    config = build({"Labels": LABELS}, node=msgspec.structs.replace(NODE, permissions=permissions))
    assert config.is_privileged
    assert config.devices == (DeviceConfig(source="/dev/kvm", target="/dev/vm", access="r"),)
    assert config.cdi_devices == ("nvidia.com/gpu=0",)


def test_an_image_cannot_ask_for_access() -> None:
    image = msgspec.structs.replace(IMAGE, config=msgspec.structs.replace(IMAGE.config, labels=LABELS))
    config = build({}, image=image)
    assert (config.is_privileged, config.devices, config.cdi_devices) == (False, (), ())


@pytest.mark.parametrize(
    ("base", "dns", "expected"),
    [
        (OWN_RESOLVER, {}, OWN_RESOLVER),
        (OWN_RESOLVER, {"Nameservers": ["9.9.9.9"]}, OWN_RESOLVER),
        (
            OWN_RESOLVER,
            {"Search": ["a.example", "b"], "Options": ["timeout:3"]},
            "nameserver 127.0.0.11\nsearch a.example b\noptions timeout:3 ndots:0\n",
        ),
        (f"search x\n{OWN_RESOLVER}", {"Search": ["."], "Options": ["ndots:2"]}, "nameserver 127.0.0.11\noptions ndots:2\n"),
        (
            "nameserver 1.1.1.1\nsearch x\n",
            {"Nameservers": ["9.9.9.9", "8.8.8.8"]},
            "nameserver 9.9.9.9\nnameserver 8.8.8.8\nsearch x\n",
        ),
    ],
)
def test_resolver(base: str, dns: dict[str, list[str]], expected: str) -> None:
    assert build({"DNSConfig": dns}, place=Place(resolv_conf=base)).resolv_conf == expected


def test_bind_and_tmpfs_options() -> None:
    options = {"Propagation": "rslave", "NonRecursive": True, "CreateMountpoint": True, "ReadOnlyNonRecursive": True}
    bind = msgspec.convert({"Type": "bind", "BindOptions": options}, Mount)
    assert bind_config(bind, "/a", "/d") == MountConfig(
        type="bind",
        source="/a",
        target="/d",
        propagation="rslave",
        is_recursive=False,
        creates_source=True,
        read_only_depth="top",
    )
    strict = msgspec.convert({"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": True}}, Mount)
    assert bind_config(strict, "/a", "/e") == MountConfig(type="bind", source="/a", target="/e", read_only_depth="all or fail")
    tmpfs = {"Type": "tmpfs", "TmpfsOptions": {"SizeBytes": 5, "Mode": 0o700, "Options": [["exec"], ["uid", "3"]]}}
    assert tmpfs_config(msgspec.convert(tmpfs, Mount), "/t").options == ("size=5", "mode=700", "exec", "uid=3")
    with pytest.raises(InvalidArgument, match="must be an absolute path: a"):
        bind_config(bind, "a", "/d")
