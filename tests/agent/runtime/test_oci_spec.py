"""The OCI bundle: Docker's defaults, and what a configuration changes."""

from pathlib import Path
from typing import Any

import pytest

from pyswarm_agent.runtime.capabilities import DEFAULT_CAPABILITIES
from pyswarm_agent.runtime.cgroups import parse_layout
from pyswarm_agent.runtime.device_nodes import DeviceNode
from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.oci_mounts import part_path
from pyswarm_agent.runtime.oci_spec import SECCOMP_ANNOTATION, Confinement, Placement, build_oci_spec
from pyswarm_agent.runtime.process_limits import UNLIMITED, process_limits
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.records import ContainerConfig, MountConfig, UlimitConfig, VolumeMountOptions
from pyswarm_common.errors import InvalidArgument

HOST = Host(
    machine="x86_64",
    boot="b",
    capabilities=DEFAULT_CAPABILITIES,
    open_files_limit=1000,
    processes_limit=-1,
    layout=parse_layout(""),
    oci_runtime=Path("/usr/bin/crun"),
    conmon=Path("/usr/bin/conmon"),
    hard_limits={"nofile": 2000},
)
UNIFIED = parse_layout("30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
VERSION_1 = parse_layout("30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")


RULES = {"defaultAction": "SCMP_ACT_ERRNO"}


def build(
    netns_path: str | None = None,
    limits_swap: bool = True,
    program: str | None = "QQ==",
    host: Host = HOST,
    devices: tuple[DeviceNode, ...] = (),
    **config: Any,
) -> dict[str, Any]:
    return build_oci_spec(
        ContainerConfig(id="c" * 64, args=("run",), **config),
        host=host,
        user=ProcessUser(5, 6, (7,), "/home/x"),
        confinement=Confinement(DEFAULT_CAPABILITIES, program, None if program else RULES),
        placement=Placement(Path("/b"), netns_path, "/pyswarm-t/c", {"/shared": "/b/shared/0"}),
        devices=devices,
        limits_swap=limits_swap,
    )


def test_process() -> None:
    process = build(env=("A=1",), tty=True, cwd="/x")["process"]
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7], "umask": 0o022}
    assert (process["env"], process["cwd"], process["terminal"]) == (["A=1", "HOME=/home/x"], "/x", True)
    assert set(process["capabilities"]) == {"bounding", "permitted", "effective"}
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 1000}]
    assert build(env=("HOME=/mine",))["process"]["env"] == ["HOME=/mine"]


def test_network_namespace() -> None:
    assert "network" not in {namespace["type"] for namespace in build()["linux"]["namespaces"]}
    assert "sysctl" not in build()["linux"]
    joined = build(netns_path="/b/netns")["linux"]
    assert {"type": "network", "path": "/b/netns"} in joined["namespaces"]
    assert joined["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"


def test_limits() -> None:
    resources = build(memory_bytes=100, nano_cpus=1_500_000_000, pids_limit=9)["linux"]["resources"]
    assert (resources["memory"], resources["pids"]) == ({"limit": 100, "swap": 200}, {"limit": 9})
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert build(memory_bytes=100, limits_swap=False)["linux"]["resources"]["memory"] == {"limit": 100}
    assert build(nano_cpus=1)["linux"]["resources"]["cpu"]["quota"] == 1000
    assert set(build()["linux"]["resources"]) == {"devices"}


def test_seccomp_goes_where_the_runtime_looks() -> None:
    crun, runc = build(), build(program=None)
    assert crun["annotations"] == {SECCOMP_ANNOTATION: "QQ=="}
    assert "seccomp" not in crun["linux"]
    assert runc["annotations"] == {}
    assert runc["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO"}


def test_mounts() -> None:
    wishes = (MountConfig(type="bind", source="/s", target="/t", read_only=True), MountConfig(type="tmpfs", target="/u"))
    spec = build(resolv_conf="nameserver x\n", hostname="h", mounts=wishes, read_only=True)
    by_target = {mount["destination"]: mount for mount in spec["mounts"]}
    assert "/etc/hosts" not in by_target
    assert by_target["/etc/resolv.conf"]["source"] == "/b/resolv.conf"
    assert "ro" in by_target["/etc/hostname"]["options"]
    assert by_target["/t"]["options"] == ["rbind", "rprivate", "ro", "rro"]
    assert by_target["/u"]["type"] == "tmpfs"
    assert "ro" in by_target["/sys"]["options"]
    assert spec["root"] == {"path": "rootfs", "readonly": True}


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ["rbind", "rprivate", "rw"]),
        ({"propagation": "rslave"}, ["rbind", "rslave", "rw"]),
        ({"is_recursive": False}, ["bind", "private", "rw"]),
        ({"is_recursive": False, "read_only": True}, ["bind", "private", "ro"]),
        ({"read_only": True, "read_only_depth": "top"}, ["rbind", "rprivate", "ro"]),
        ({"read_only": True, "read_only_depth": "all or fail"}, ["rbind", "rprivate", "ro", "rro"]),
        ({"options": ("nosuid",)}, ["rbind", "rprivate", "rw", "nosuid"]),
    ],
)
def test_bind_options(changes: dict[str, Any], options: list[str]) -> None:
    assert build(mounts=(MountConfig(type="bind", source="/s", target="/t", **changes),))["mounts"][-1]["options"] == options


def test_read_only_on_kernels_that_cannot_make_trees_so() -> None:
    old = HOST._replace(has_deep_read_only=False)
    mount = MountConfig(type="bind", source="/s", target="/t", read_only=True)
    assert build(host=old, mounts=(mount,))["mounts"][-1]["options"] == ["rbind", "rprivate", "ro"]
    strict = MountConfig(type="bind", source="/s", target="/t", read_only=True, read_only_depth="all or fail")
    with pytest.raises(InvalidArgument, match="this kernel cannot make mounts recursively read-only"):
        build(host=old, mounts=(strict,))


def test_propagation_keeps_the_bundles_mounts_connected() -> None:
    def propagation(*kinds: str) -> str | None:
        mounts = tuple(MountConfig(type="bind", source="/shared", target=f"/t{k}", propagation=k) for k in kinds)
        found: str | None = build(mounts=mounts)["linux"].get("rootfsPropagation")
        return found

    assert propagation("rprivate") is None
    assert propagation("rslave", "private") == "rslave"
    assert propagation("rslave", "shared") == "shared"
    with pytest.raises(InvalidArgument, match="invalid propagation mode: 'sideways'"):
        propagation("sideways")


def test_where_sources_are_found() -> None:
    shared = MountConfig(type="bind", source="/shared", target="/t", propagation="rshared")
    part = MountConfig(type="bind", source="/v", target="/u", volume="v", volume_options=VolumeMountOptions(subpath="a"))
    mounts = build(mounts=(shared, part))["mounts"]
    assert [mount["source"] for mount in mounts[-2:]] == ["/b/shared/0", part_path(part, Path("/b"))]


def test_own_mounts_replace_the_systems() -> None:
    mounts = build(hosts="x", mounts=(MountConfig(type="tmpfs", target="/dev/shm"), MountConfig(type="tmpfs", target="/etc/hosts")))
    targets = [mount["destination"] for mount in mounts["mounts"]]
    assert targets.count("/dev/shm") == targets.count("/etc/hosts") == 1


def test_shared_memory() -> None:
    def size(**config: Any) -> str:
        options: list[str] = next(m["options"] for m in build(**config)["mounts"] if m["destination"] == "/dev/shm")
        return options[-1]

    assert (size(), size(shm_size_bytes=5)) == ("size=67108864", "size=5")


@pytest.mark.parametrize(
    ("config", "memory"),
    [
        ({"memory_bytes": 100, "swap_bytes": 0}, {"limit": 100, "swap": 100}),
        ({"memory_bytes": 100, "swap_bytes": 30}, {"limit": 100, "swap": 130}),
        ({"memory_bytes": 100, "swap_bytes": -1}, {"limit": 100, "swap": -1}),
        ({"memory_bytes": 100, "memory_reservation_bytes": 40}, {"limit": 100, "swap": 200, "reservation": 40}),
        ({"memory_bytes": 100, "memory_reservation_bytes": 400}, {"limit": 100, "swap": 200, "reservation": 100}),
        ({"memory_reservation_bytes": 40}, {"reservation": 40}),
    ],
)
def test_memory(config: dict[str, Any], memory: dict[str, int]) -> None:
    assert build(**config)["linux"]["resources"]["memory"] == memory


def test_swappiness_is_of_version_1_alone() -> None:
    version_1, unified = (HOST._replace(layout=layout) for layout in (VERSION_1, UNIFIED))
    assert build(host=version_1, memory_swappiness=7)["linux"]["resources"]["memory"] == {"swappiness": 7}
    assert "memory" not in build(host=unified, memory_swappiness=7)["linux"]["resources"]


def test_version_2_gets_the_same_members() -> None:
    config = {"memory_bytes": 100, "swap_bytes": 50, "memory_reservation_bytes": 40, "cpu_shares": 512, "nano_cpus": 10**9}
    first, second = (build(host=HOST._replace(layout=layout), **config)["linux"]["resources"] for layout in (VERSION_1, UNIFIED))
    assert first == second
    assert second["cpu"] == {"quota": 100_000, "period": 100_000, "shares": 512}


def test_ulimits_are_clipped_and_said() -> None:
    ulimits = (UlimitConfig(name="nofile", soft=10, hard=-1), UlimitConfig(name="core", soft=-1, hard=-1))
    config = ContainerConfig(id="c", ulimits=ulimits)
    limits, clipped = process_limits(config, HOST)
    assert limits == {"nofile": (10, 2000), "core": (UNLIMITED, UNLIMITED)}
    assert clipped == ("containers' limit nofile is at most 2000 on this host",)
    assert {"type": "RLIMIT_CORE", "soft": UNLIMITED, "hard": UNLIMITED} in build(ulimits=ulimits)["process"]["rlimits"]


@pytest.mark.parametrize(
    ("asked", "lowest", "given"), [(0, -1000, 0), (-500, -1000, -500), (-500, 0, 0), (0, 100, 100), (300, 100, 300)]
)
def test_oom_score(asked: int, lowest: int, given: int) -> None:
    assert build(host=HOST._replace(lowest_oom_score=lowest), oom_score_adj=asked)["process"]["oomScoreAdj"] == given


def test_sysctls() -> None:
    assert build(sysctls={"kernel.msgmax": "1"})["linux"]["sysctl"] == {"kernel.msgmax": "1"}
    with pytest.raises(InvalidArgument, match="not allowed in host network namespace"):
        build(sysctls={"net.core.somaxconn": "1"})
    own = build(netns_path="/b/netns", sysctls={"net.ipv4.ip_unprivileged_port_start": "5"})["linux"]["sysctl"]
    assert own["net.ipv4.ip_unprivileged_port_start"] == "5"


def test_devices() -> None:
    device = DeviceNode("/dev/x", "c", 10, 229, 0o660, 1, 2, "rw")
    linux = build(devices=(device,))["linux"]
    assert linux["devices"] == [{"path": "/dev/x", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 1, "gid": 2}]
    rules = linux["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert rules[-1] == {"allow": True, "type": "c", "access": "rw", "major": 10, "minor": 229}


def test_privileged() -> None:
    linux = build(is_privileged=True)["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == ([], [])
    assert linux["resources"]["devices"] == [{"allow": True, "type": "a", "access": "rwm"}]
    by_target = {mount["destination"]: mount["options"] for mount in build(is_privileged=True)["mounts"]}
    assert "rw" in by_target["/sys"]
    assert "rw" in by_target["/sys/fs/cgroup"]


def test_init() -> None:
    spec = build(init=True)
    assert spec["process"]["args"] == ["/sbin/docker-init", "--", "run"]
    assert spec["mounts"][-1]["destination"] == "/sbin/docker-init"
