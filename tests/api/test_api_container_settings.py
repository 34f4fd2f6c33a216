"""What a service's container spec may hold: refused at once, in Docker's words; what is taken says nothing."""

import base64
from typing import Any

import httpx
import pytest

from pyswarm_common.specs import TaskTemplate
from pyswarm_manager.store.store import Store


async def created(client: httpx.AsyncClient, container: dict[str, Any], **template: Any) -> httpx.Response:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "nginx", **container}, **template}}
    return await client.post("/services/create", json=spec)


def profile(text: str) -> dict[str, Any]:
    return {"Privileges": {"Seccomp": {"Mode": "custom", "Profile": base64.b64encode(text.encode()).decode()}}}


def mount(**members: Any) -> dict[str, Any]:
    return {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", **members}]}


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"CapabilityAdd": ["CAP_FLY"]}, "invalid capability: unknown capability: 'CAP_FLY'"),
        ({"CapabilityDrop": ["fly"]}, "unknown capability"),
        ({"Sysctls": {"kernel.panic": "1"}}, "sysctl 'kernel.panic' is not allowed"),
        ({"Ulimits": [{"Name": "files", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: files"),
        (
            {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]},
            "must be less than or equal to hard limit: 2 > 1",
        ),
        ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"Hosts": ["db"]}, "invalid extra host 'db'"),
        *(({"Hosts": [line]}, "invalid extra host") for line in ("db 10.0.0.1", "", "10.0.0.1 a\n::1 b")),
        ({"Hostname": "a b"}, "invalid hostname format: a b"),
        ({"DNSConfig": {"Nameservers": ["dns.example"]}}, "bad nameserver address: dns.example"),
        ({"DNSConfig": {"Search": ["a b"]}}, "invalid DNS search domain or option: 'a b'"),
        ({"Privileges": {"Seccomp": {"Mode": "strict"}}}, "unrecognized seccomp mode: 'strict'"),
        ({"Privileges": {"AppArmor": {"Mode": "strict"}}}, "unrecognized AppArmor mode: 'strict'"),
        (profile("{"), "Decoding seccomp profile failed"),
        (profile("[]"), "Decoding seccomp profile failed"),
        ({"Privileges": {"Seccomp": {"Mode": "default", "Profile": "e30="}}}, "goes with the mode custom"),
        ({"Labels": {"pyswarm.devices": "kvm"}}, "kvm is not an absolute path"),
        ({"Labels": {"pyswarm.privileged": "perhaps"}}, "is neither true nor false"),
        (mount(Target="b"), "invalid mount target, must be an absolute path: b"),
        *((mount(Target=path), "destination can't be '/'") for path in ("/", "//", "/a/..")),
        (mount(Source="a"), "invalid bind mount source, must be an absolute path: a"),
        (mount(Type="volume"), "invalid volume mount source, must not be an absolute path: /a"),
        (mount(Type="tmpfs"), "invalid tmpfs source, source must be empty"),
        (mount(Type="npipe"), "invalid mount type: npipe"),
        (mount(BindOptions={"Propagation": "sideways"}), "invalid propagation: 'sideways'"),
        (mount(BindOptions={"ReadOnlyForceRecursive": True}), "mount is not read-only but ReadOnlyForceRecursive is set"),
        (mount(VolumeOptions={"NoCopy": True}), "VolumeOptions must not be specified for a mount of type bind"),
        (mount(Type="tmpfs", Source="", TmpfsOptions={"SizeBytes": -1}), "invalid tmpfs size: -1"),
        (mount(Type="tmpfs", Source="", TmpfsOptions={"Options": [["uid", "0"]]}), "invalid option: 'uid=0'"),
    ],
)
async def test_refused(client: httpx.AsyncClient, container: dict[str, Any], words: str) -> None:
    answer = await created(client, container)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"SwapBytes": 5}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"SwapBytes": -2}, "invalid swap bytes -2"),
        ({"MemorySwappiness": 101}, "valid memory swappiness range is 0-100"),
    ],
)
async def test_refused_memory(client: httpx.AsyncClient, resources: dict[str, int], words: str) -> None:
    answer = await created(client, {}, Resources=resources)
    assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text


async def test_everything_is_taken_and_comes_back(client: httpx.AsyncClient, store: Store) -> None:
    container = {
        "Init": False,
        "Groups": ["staff"],
        "Hosts": ["10.0.0.1 db", "::1 six"],
        "Hostname": "{{.Node.Hostname}}-{{.Task.Slot}}",
        "DNSConfig": {"Nameservers": ["9.9.9.9"], "Search": ["."], "Options": ["timeout:2"]},
        "CapabilityAdd": ["CAP_NET_ADMIN"],
        "CapabilityDrop": ["ALL"],
        "Sysctls": {"net.core.somaxconn": "1024"},
        "Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": -1}],
        "OomScoreAdj": -500,
        "Privileges": {"NoNewPrivileges": True, "Seccomp": {"Mode": "unconfined"}, "AppArmor": {"Mode": "default"}},
        "Labels": {"pyswarm.privileged": "true", "pyswarm.devices": "/dev/kvm", "pyswarm.cdi": "v.com/gpu=all"},
        "Mounts": [
            {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rslave", "CreateMountpoint": True}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 5, "Mode": 448, "Options": [["exec"]]}},
        ],
    }
    resources = {"Limits": {"MemoryBytes": 1 << 26}, "SwapBytes": -1, "MemorySwappiness": 0}
    answer = await created(client, container, Resources=resources)
    assert (answer.status_code, answer.json()["Warnings"]) == (201, None), answer.text
    template = (await client.get("/services/web")).json()["Spec"]["TaskTemplate"]
    assert {key: template["ContainerSpec"][key] for key in container} == container
    assert template["Resources"] == resources
    (spec,) = store.view.task_specs
    typed: TaskTemplate = spec.template
    assert typed.container_spec is not None
    assert typed.container_spec.oom_score_adj == -500
