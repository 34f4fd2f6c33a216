"""The two WireGuards behind one interface: the kernel's own, and wireguard-go with a TUN device.

Both make the interface `wg0` in the secure namespace while its UDP socket stays in the host's: the kernel's by the message that
makes it, wireguard-go by running in the host's namespace, from where its TUN device is moved. wireguard-go outlives this process.
It is found again by its socket, whose name is the device's first name.
"""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pyswarm_common.errors import Unavailable
from pyswarm_netplugin.kernel import links
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.naming import SECURE_INTERFACE, SECURE_NAMESPACE
from pyswarm_netplugin.secure import userspace_protocol, wireguard_messages
from pyswarm_netplugin.secure.detection import FAMILY, PROGRAM
from pyswarm_netplugin.secure.generic_netlink import NETLINK_GENERIC, family_id
from pyswarm_netplugin.secure.links import link_move
from pyswarm_netplugin.secure.memory import is_port_free
from pyswarm_netplugin.secure.processes import end_processes
from pyswarm_netplugin.secure.records import SecurePeer

SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go has its sockets; it cannot be told otherwise."""
START_LIMIT_S = 10.0
END_LIMIT_S = 3.0
_ANSWER_LIMIT_S = 5.0
_LOOK_S = 0.01
_GONE = (errno.ENODEV, errno.ENOENT)

Device = tuple[str, int, Mapping[str, SecurePeer]]
"""Own public key ("" when there is none), port, peers by address."""


class WireGuard(Protocol):
    """One of them. All methods are called in the host's namespace, and raise OSError or PyswarmError."""

    def make(self, private_key: str, port: int, mtu_bytes: int) -> None:
        """Make the interface, down, with its key and port. There is none."""
        ...

    def wait_up(self, port: int) -> None:
        """Return when the interface, which was set up, listens."""
        ...

    def read(self) -> Device:
        """Return what the interface has."""
        ...

    def change_peers(self, add: Mapping[str, SecurePeer], remove: tuple[str, ...], preshared_key: str) -> None:
        """Forget public keys, then set peers."""
        ...

    def end(self) -> None:
        """Make sure that nothing of it is left beside the interface, which is removed already."""
        ...


class KernelWireGuard:
    """The kernel's own."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces

    def make(self, private_key: str, port: int, mtu_bytes: int) -> None:
        """See `WireGuard`."""
        with self._namespaces.open(SECURE_NAMESPACE) as descriptor, NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([wireguard_messages.interface_add(SECURE_INTERFACE, mtu_bytes, descriptor)])
        with self._namespaces.inside(SECURE_NAMESPACE), NetlinkSocket(NETLINK_GENERIC) as netlink:
            netlink.send([wireguard_messages.device_set(self._family(), SECURE_INTERFACE, private_key, port)])

    def wait_up(self, port: int) -> None:
        """It listens at once, or setting it up failed."""

    def read(self) -> Device:
        """See `WireGuard`."""
        with self._namespaces.inside(SECURE_NAMESPACE), NetlinkSocket(NETLINK_GENERIC) as netlink:
            found = netlink.dump(self._family(), wireguard_messages.device_request(SECURE_INTERFACE))
        return wireguard_messages.read_device(body for _, body in found)

    def change_peers(self, add: Mapping[str, SecurePeer], remove: tuple[str, ...], preshared_key: str) -> None:
        """See `WireGuard`."""
        messages = wireguard_messages.peer_messages(self._family(), SECURE_INTERFACE, add, remove, preshared_key)
        with self._namespaces.inside(SECURE_NAMESPACE), NetlinkSocket(NETLINK_GENERIC) as netlink:
            netlink.send(messages, tolerated=_GONE)

    def end(self) -> None:
        """Nothing is."""

    def _family(self) -> int:
        number = family_id(FAMILY)
        if number is None:
            raise Unavailable("the kernel's WireGuard is gone")
        return number


class UserspaceWireGuard:
    """The program wireguard-go, one process for the node. `name`: the device's first name, in the host's namespace."""

    def __init__(self, namespaces: Namespaces, name: str) -> None:
        self._namespaces = namespaces
        self._name = name
        self._socket_path = SOCKETS / f"{name}.sock"

    def make(self, private_key: str, port: int, mtu_bytes: int) -> None:
        """See `WireGuard`."""
        self._start()
        self._tell(userspace_protocol.set_device(private_key, port))
        with self._namespaces.open(SECURE_NAMESPACE) as descriptor, NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.link_mtu(self._name, mtu_bytes)])
            netlink.send([link_move(socket.if_nametoindex(self._name), SECURE_INTERFACE, descriptor)])

    def wait_up(self, port: int) -> None:
        """It notices within a second that its device is up; only then it listens."""
        _wait_until(lambda: not is_port_free(port), END_LIMIT_S, f"{PROGRAM} does not listen on UDP port {port}")

    def read(self) -> Device:
        """See `WireGuard`."""
        return userspace_protocol.read_device(self._ask(userspace_protocol.GET))

    def change_peers(self, add: Mapping[str, SecurePeer], remove: tuple[str, ...], preshared_key: str) -> None:
        """See `WireGuard`."""
        self._tell(userspace_protocol.set_peers(add, remove, preshared_key))

    def end(self) -> None:
        """End the process, and wait for it: it removes its socket on the way, which must not be the next one's."""
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.link_remove(self._name)], tolerated=_GONE)
        end_processes(PROGRAM, self._name, END_LIMIT_S)
        self._socket_path.unlink(missing_ok=True)

    def _start(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise Unavailable(f"{PROGRAM} is not installed any more")
        # Its log level unset, it keeps none of the pipes; it leaves its starter once its socket is there.
        done = subprocess.run(
            [program, self._name],
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            start_new_session=True,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"{PROGRAM} did not start: {_last_line(done.stdout + done.stderr)}")
        self._ask(userspace_protocol.GET)  # answered only once it has taken its device, which may then be moved

    def _tell(self, text: str) -> None:
        deadline_s = time.monotonic() + END_LIMIT_S
        while (number := userspace_protocol.errno_of(self._ask(text))) == errno.EADDRINUSE and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)  # a former one lets go of the port
        if number:
            raise OSError(number, f"{PROGRAM}: {os.strerror(number)}")

    def _ask(self, text: str) -> str:
        with self._connected() as connection:
            connection.sendall(text.encode())
            answer = bytearray()
            while not answer.endswith(userspace_protocol.END):
                chunk = connection.recv(65536)
                if not chunk:
                    raise Unavailable(f"{PROGRAM} broke off")
                answer += chunk
        return answer.decode()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_ANSWER_LIMIT_S)
            connection.connect(str(self._socket_path))
            yield connection


def _wait_until(is_so: Callable[[], bool], limit_s: float, problem: str) -> None:
    """Wait for another process. Raises Unavailable."""
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise Unavailable(problem)
        time.sleep(_LOOK_S)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
