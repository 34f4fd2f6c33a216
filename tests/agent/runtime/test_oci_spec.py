"""The OCI bundle: Docker's defaults, and what a configuration changes."""

from pathlib import Path
from typing import Any

from pyswarm_agent.runtime.capabilities import DEFAULT_CAPABILITIES
from pyswarm_agent.runtime.cgroups import parse_layout
from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.oci_spec import SECCOMP_ANNOTATION, build_oci_spec
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.records import ContainerConfig, MountConfig

HOST = Host(
    machine="x86_64",
    boot="b",
    capabilities=DEFAULT_CAPABILITIES,
    open_files_limit=1000,
    processes_limit=-1,
    oom_score_adjustment=0,
    layout=parse_layout(""),
    oci_runtime=Path("/usr/bin/crun"),
    conmon=Path("/usr/bin/conmon"),
)


def build(netns_path: str | None = None, limits_swap: bool = True, program: str | None = "QQ==", **config: Any) -> dict[str, Any]:
    return build_oci_spec(
        ContainerConfig(id="c" * 64, args=("run",), **config),
        host=HOST,
        user=ProcessUser(5, 6, (7,), "/home/x"),
        capabilities=DEFAULT_CAPABILITIES,
        bundle=Path("/b"),
        netns_path=netns_path,
        cgroup_path="/pyswarm-t/c",
        seccomp_program=program,
        seccomp_rules=None if program else {"defaultAction": "SCMP_ACT_ERRNO"},
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
    assert by_target["/t"]["options"] == ["rbind", "rprivate", "ro"]
    assert by_target["/u"]["type"] == "tmpfs"
    assert "ro" in by_target["/sys"]["options"]
    assert spec["root"] == {"path": "rootfs", "readonly": True}


def test_init() -> None:
    spec = build(init=True)
    assert spec["process"]["args"] == ["/sbin/docker-init", "--", "run"]
    assert spec["mounts"][-1]["destination"] == "/sbin/docker-init"
