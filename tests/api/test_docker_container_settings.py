"""The unmodified docker CLI says what it wants of containers, and our API understands."""

from typing import Any

import pytest
from docker_command import DockerCLI

from pyswarm_common.container_spec import ContainerSpec
from pyswarm_manager.store.store import Store

CREATE = """
    service create -d --no-resolve-image --name web --init --read-only --group staff --host db:10.0.0.1 --hostname h-{{.Task.Slot}}
    --dns 9.9.9.9 --dns-search a.example --dns-option ndots:2 --sysctl net.core.somaxconn=9 --ulimit nofile=1:2
    --cap-add NET_ADMIN --cap-drop ALL --limit-pids 5 --stop-signal SIGINT --stop-grace-period 3s
    --container-label pyswarm.devices=/dev/kvm --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700
    --mount type=bind,source=/a,target=/b,readonly,bind-propagation=rslave nginx
"""
UPDATE = """
    service update -d --no-resolve-image --dns-rm 9.9.9.9 --dns-add 8.8.8.8 --sysctl-rm net.core.somaxconn --ulimit-add core=0
    --cap-drop CAP_NET_ADMIN --host-rm db:10.0.0.1 --group-rm staff --init=false web
"""


@pytest.fixture
def docker_cli(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


def container_of(store: Store) -> ContainerSpec:
    (service,) = store.view.services
    container = store.view.task_specs.must_get(service.task_spec_id).template.container_spec
    assert container is not None
    return container


async def test_create_and_update(docker_cli: DockerCLI, store: Store) -> None:
    await docker_cli(*CREATE.split())
    spec = container_of(store)
    assert (spec.init, spec.read_only, spec.groups, spec.hosts) == (True, True, ["staff"], ["10.0.0.1 db"])
    assert spec.dns_config is not None
    assert (spec.dns_config.nameservers, spec.dns_config.search, spec.dns_config.options) == (
        ["9.9.9.9"],
        ["a.example"],
        ["ndots:2"],
    )
    assert spec.sysctls == {"net.core.somaxconn": "9"}
    assert [(u.name, u.soft, u.hard) for u in spec.ulimits or ()] == [("nofile", 1, 2)]
    assert (spec.capability_add, spec.capability_drop) == (["CAP_NET_ADMIN"], ["ALL"])
    tmpfs, bind = sorted(spec.mounts or (), key=lambda mount: mount.target, reverse=True)
    assert tmpfs.tmpfs_options is not None
    assert (tmpfs.tmpfs_options.size_bytes, tmpfs.tmpfs_options.mode) == (1 << 20, 0o700)
    assert bind.bind_options is not None
    assert bind.bind_options.propagation == "rslave"
    await docker_cli(*UPDATE.split())
    changed = container_of(store)
    assert changed.dns_config is not None
    assert (changed.init, changed.dns_config.nameservers, changed.sysctls or {}) == (False, ["8.8.8.8"], {})
    assert sorted(u.name for u in changed.ulimits or ()) == ["core", "nofile"]
    assert "CAP_NET_ADMIN" not in (changed.capability_add or ())
    assert not changed.hosts
    assert not changed.groups


@pytest.mark.usefixtures("store")
async def test_refusals_are_shown(docker_cli: DockerCLI) -> None:
    arguments = ("service", "create", "-d", "--no-resolve-image")
    wrong: tuple[tuple[Any, str], ...] = (
        (("--container-label", "pyswarm.cdi=gpu"), "invalid CDI device name 'gpu'"),
        (("--dns", "9.9.9.9", "--mount", "type=bind,source=/a,target=b"), "mount target, must be an absolute path"),
    )
    for options, words in wrong:
        code, _, errors = await docker_cli.run(*arguments, *options, "nginx")
        assert (code, words in errors) == (1, True), errors
