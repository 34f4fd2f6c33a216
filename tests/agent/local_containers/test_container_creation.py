"""Create bodies and images merged by Docker's rules; names, ports, mounts, limits."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.images import Image
from pyswarm_agent.images.records import ImageConfig
from pyswarm_agent.local_containers.creation import Creation, build, decode_body
from pyswarm_agent.local_containers.limits import security_of, swap_of
from pyswarm_agent.local_containers.mounts import asked_mounts, parse_bind
from pyswarm_agent.local_containers.names import check_name, random_name
from pyswarm_agent.local_containers.network import resolvers_of
from pyswarm_agent.local_containers.ports import listed_ports, rendered_ports
from pyswarm_common.container_spec import BindOptions, Mount, TmpfsOptions, VolumeOptions
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

ID = "c" * 64
IMAGE = Image(
    id="sha256:1",
    config=ImageConfig(
        env=("PATH=/bin", "A=image"),
        entrypoint=("/entry",),
        cmd=("serve",),
        working_dir="/srv",
        user="web",
        labels={"from": "image", "both": "image"},
        exposed_ports=("80/tcp",),
        volumes=("/data",),
        stop_signal="SIGINT",
        healthcheck={"Test": ["CMD", "check"], "Interval": 2_000_000_000},
    ),
)


def created(**body: Any) -> Creation:
    return build(decode_body({"Image": "web", **body}), {"Image": "web", **body}, IMAGE, container_id=ID, name="x", hostname="node")


@pytest.mark.parametrize(
    ("body", "args"),
    [
        ({}, ("/entry", "serve")),
        ({"Cmd": ["other", "x"]}, ("/entry", "other", "x")),
        ({"Entrypoint": ["/own"]}, ("/own",)),
        ({"Entrypoint": ["/own"], "Cmd": ["x"]}, ("/own", "x")),
        ({"Entrypoint": "/own", "Cmd": "x"}, ("/own", "x")),
        ({"Entrypoint": [""], "Cmd": ["x"]}, ("x",)),
        ({"Entrypoint": [], "Cmd": None}, ("/entry", "serve")),
    ],
)
def test_command(body: dict[str, Any], args: tuple[str, ...]) -> None:
    assert created(**body).config.args == args


def test_what_the_image_supplies() -> None:
    config = created().config
    assert config.env == ("HOSTNAME=" + ID[:12], "PATH=/bin", "A=image")
    assert (config.cwd, config.user, config.stop_signal, config.hostname) == ("/srv", "web", "SIGINT", ID[:12])
    assert (config.healthcheck.test, config.healthcheck.interval_s) == (("CMD", "check"), 2.0)
    assert config.keeps_layer


def test_what_the_body_says_instead() -> None:
    made = created(
        Env=["A=own", "PATH"],
        Labels={"both": "own"},
        WorkingDir="/w",
        User="1:2",
        Hostname="h",
        Tty=True,
        OpenStdin=True,
        StdinOnce=True,
        StopSignal="TERM",
        StopTimeout=3,
        HostConfig={"Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 500_000_000, "CapAdd": ["NET_ADMIN"], "Privileged": True},
    )
    config = made.config
    assert config.env == ("HOSTNAME=h", "TERM=xterm", "A=own")
    assert config.labels == {"from": "image", "both": "own"}
    assert (config.cwd, config.user, config.hostname, config.stop_grace_period_s) == ("/w", "1:2", "h", 3.0)
    assert (config.memory_bytes, config.swap_bytes, config.nano_cpus) == (64 << 20, -1, 500_000_000)
    assert (config.is_privileged, config.seccomp, config.apparmor) == (True, "unconfined", "unconfined")
    assert (config.tty, config.open_stdin, config.stdin_once) == (True, True, True)
    assert made.container.config["Env"] == ["A=own"]
    assert made.container.config["Cmd"] == ["serve"]


def test_members_in_any_case_and_nulls() -> None:
    assert created(cmd=["x"], hostConfig=None).config.args == ("/entry", "x")


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        ({}, "bridge"),
        ({"HostConfig": {"NetworkMode": "default"}}, "bridge"),
        ({"HostConfig": {"NetworkMode": "host"}}, "host"),
        ({"HostConfig": {"NetworkMode": "none"}}, "none"),
        ({"HostConfig": {"NetworkMode": "container:web"}}, "container:web"),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {}}}}, "bridge"),
        ({"HostConfig": {"NetworkMode": "app"}}, "app"),
        ({"NetworkingConfig": {"EndpointsConfig": {"app": {}}}}, "app"),
    ],
)
def test_network_modes(body: dict[str, Any], mode: str) -> None:
    made = created(**body)
    assert made.container.network_mode == mode
    assert made.config.hostname == ("node" if mode == "host" else ID[:12])


def test_what_is_asked_of_a_network_of_the_cluster() -> None:
    endpoint = {"Aliases": ["helper"], "IPAMConfig": {"IPv4Address": "10.0.1.9"}}
    ports = {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}
    made = created(HostConfig={"NetworkMode": "app", **ports}, NetworkingConfig={"EndpointsConfig": {"app": endpoint}}).container
    assert (made.names_network, made.aliases, made.address) == (True, ("helper",), "10.0.1.9")
    assert [request.container_port for request in made.port_requests] == [80]


def on(endpoints: dict[str, Any], mode: str = "") -> dict[str, Any]:
    """Return what asks for these networks."""
    return {"NetworkingConfig": {"EndpointsConfig": endpoints}, "HostConfig": {"NetworkMode": mode}}


def test_several_networks() -> None:
    asked = {"app": {"Aliases": ["db"], "GwPriority": 2}, "other": {"MacAddress": "02-42-0A-00-00-09"}, "bridge": {}}
    made = created(**on(asked, "other")).container
    assert [(join.network, join.aliases, join.mac, join.priority) for join in made.joins] == [
        ("other", (), "02:42:0a:00:00:09", 0),
        ("app", ("db",), "", 2),
        ("bridge", (), "", 0),
    ]
    first = created(**on({"app": {}}, "app"), MacAddress="02:42:0a:00:00:09").container
    assert [join.mac for join in first.joins] == ["02:42:0a:00:00:09"]
    assert created(**on({"default": {}})).container.joined is None


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (on({"app": {"Links": ["a:b"]}}), Unimplemented, "--link is not offered"),
        (on({"app": {"DriverOpts": {"a": "b"}}}), Unimplemented, "driver options of an endpoint are not offered: a"),
        (on({"app": {"MacAddress": "01:00:00:00:00:01"}}), InvalidArgument, "is not a valid mac address"),
        (on({"app": {"IPAMConfig": {"IPv4Address": "10.0.0"}}}), InvalidArgument, "invalid IPv4 address: 10.0.0"),
        (on({"app": {"IPAMConfig": {"IPv6Address": "fd00::2"}}}), Unimplemented, "--ip6 is not offered"),
        (on({"bridge": {"Aliases": ["db"]}}), InvalidArgument, "aliases are only supported for user-defined networks"),
        (on({"default": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}), InvalidArgument, "on user defined networks only"),
        ({"MacAddress": "02:42:00:00:00:01"}, Unimplemented, "--mac-address is not offered on the default networks"),
        (on({"none": {}, "app": {}}, "none"), InvalidArgument, "private .none. mode"),
        (on({"app": {}}, "host"), InvalidArgument, "sharing network namespace"),
        ({"HostConfig": {"PidMode": "host"}}, Unimplemented, "--pid is not supported yet"),
        ({"HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}}, InvalidArgument, "can't create 'AutoRemove'"),
        ({"HostConfig": {"Memory": 1}}, InvalidArgument, "Minimum memory limit allowed is 6MB"),
        ({"HostConfig": {"ExtraHosts": ["x"]}}, InvalidArgument, "bad format for add-host"),
        ({"HostConfig": {"Sysctls": {"vm.swappiness": "1"}}}, InvalidArgument, "is not allowed"),
        ({"HostConfig": {"LogConfig": {"Type": "nope"}}}, InvalidArgument, "no log driver named 'nope'"),
        ({"HostConfig": {"PortBindings": {"80/xyz": []}}}, InvalidArgument, "invalid proto: xyz"),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}}, InvalidArgument, "invalid port specification"),
        ({"WorkingDir": "w"}, InvalidArgument, "needs to be an absolute path"),
        ({"Cmd": 7}, InvalidArgument, "invalid JSON"),
        ({"Healthcheck": {"Interval": 5}}, InvalidArgument, "Interval in Healthcheck cannot be less than 1ms"),
        (
            {"Hostname": "h", "HostConfig": {"NetworkMode": "container:x"}},
            InvalidArgument,
            "conflicting options: hostname and the network mode",
        ),
    ],
)
def test_what_is_refused(body: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        created(**body)


def test_no_command() -> None:
    with pytest.raises(InvalidArgument, match="No command specified"):
        build(decode_body({}), {}, Image(id="sha256:2"), container_id=ID, name="x", hostname="node")


def test_ports() -> None:
    bindings = {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000-8010"}, {"HostPort": ""}],
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "53"}],
    }
    made = created(HostConfig={"PortBindings": bindings})
    assert made.container.port_requests == (
        PortRequest(container_port=80, host_address="127.0.0.1", first_host_port=8000, last_host_port=8010),
        PortRequest(container_port=80),
        PortRequest(container_port=53, protocol="udp", host_address="0.0.0.0", first_host_port=53, last_host_port=53),
    )
    assert created(HostConfig={"PublishAllPorts": True}).container.port_requests == (PortRequest(container_port=80),)
    assert created(HostConfig={"NetworkMode": "host", "PortBindings": bindings}).container.port_requests == ()


def test_ports_as_shown() -> None:
    ports = (PublishedPort(protocol="tcp", container_port=80, host_port=8080),)
    assert rendered_ports(["80/tcp", "81/tcp"], ports) == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None}
    assert listed_ports(["80/tcp", "81/tcp"], ports) == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "tcp"},
    ]


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount(type="bind", source="/a", target="/b", bind_options=BindOptions(create_mountpoint=True))),
        (
            "/a:/b:ro,rslave,z",
            Mount(
                type="bind",
                source="/a",
                target="/b",
                read_only=True,
                bind_options=BindOptions(propagation="rslave", create_mountpoint=True),
            ),
        ),
        ("data:/b", Mount(type="volume", source="data", target="/b", volume_options=VolumeOptions())),
        (
            "data:/b:ro,nocopy",
            Mount(type="volume", source="data", target="/b", read_only=True, volume_options=VolumeOptions(no_copy=True)),
        ),
        ("/b", Mount(type="volume", target="/b")),
    ],
)
def test_binds(text: str, mount: Mount) -> None:
    assert parse_bind(text) == mount


@pytest.mark.parametrize("text", ["a:b", "/a:b", ":/b", "/a::ro", "/a:/b:nope", "/a:/b:ro:x", "/a:/"])
def test_binds_that_mean_nothing(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


def test_tmpfs() -> None:
    body = decode_body({"HostConfig": {"Tmpfs": {"/run": "size=1m,noexec", "/tmp": ""}}})
    assert asked_mounts(body) == [
        Mount(type="tmpfs", target="/run", tmpfs_options=TmpfsOptions(options=[["size", "1m"], ["noexec"]])),
        Mount(type="tmpfs", target="/tmp", tmpfs_options=TmpfsOptions()),
    ]


def test_swap_and_security() -> None:
    assert swap_of(0, 0) is None
    assert swap_of(100 << 20, 150 << 20) == 50 << 20
    for memory, total in ((0, 5), (100 << 20, 50 << 20)):
        with pytest.raises(InvalidArgument):
            swap_of(memory, total)
    assert security_of(["no-new-privileges", "seccomp=unconfined", "apparmor:mine", "label=disable"]) == (
        True,
        "unconfined",
        "mine",
    )
    with pytest.raises(InvalidArgument, match="invalid --security-opt"):
        security_of(["nope"])


@given(st.integers(0, 2**32), st.integers(0, 400))
def test_made_names_are_free_and_valid(seed: int, others: int) -> None:
    choices = random.Random(seed)
    taken: set[str] = set()
    for _ in range(min(others, 50)):
        name = random_name(taken, choices)
        assert name not in taken
        assert check_name(name) == name
        taken.add(name)


@pytest.mark.parametrize("name", ["", "a", "-x", "a b", "ä1", "a/b"])
def test_names_that_may_not_be(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_name(name)


def test_resolvers_on_the_loopback_are_of_no_use() -> None:
    local, real = "search x\nnameserver 127.0.0.53\n", "nameserver 192.0.2.1\n"
    assert resolvers_of([local, real]) == real
    assert resolvers_of([local]) == "search x\n"
    assert resolvers_of([local + real]) == "search x\n" + real
