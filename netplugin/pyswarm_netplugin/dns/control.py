"""Carries out what pyswarmd says over the control socket."""

import os
import socket
import sys
from collections.abc import Mapping

import msgspec

from pyswarm_netplugin.dns import protocol
from pyswarm_netplugin.dns.event_loop import EventLoop
from pyswarm_netplugin.dns.forwarder import Forwarder
from pyswarm_netplugin.dns.framing import CONTROL_LENGTH, FramedConnection
from pyswarm_netplugin.dns.protocol import SandboxConfig
from pyswarm_netplugin.dns.server import DNSServer
from pyswarm_netplugin.dns.sockets import namespace_inode, open_in_namespaces
from pyswarm_netplugin.dns.table import Table


class ControlServer:
    """Accepts pyswarmd on a listening unix socket; whoever may connect may say everything."""

    def __init__(
        self, loop: EventLoop, listening: socket.socket, instance_tag: str, table: Table, server: DNSServer, forwarder: Forwarder
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._instance_tag = instance_tag
        self._table = table
        self._server = server
        self._forwarder = forwarder
        listening.setblocking(False)
        loop.watch(listening.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except OSError:  # the peer has gone already
            return
        FramedConnection(
            self._loop,
            sock,
            CONTROL_LENGTH,
            max_message_bytes=protocol.MAX_MESSAGE_BYTES,
            on_message=self._received,
            on_closed=lambda _: None,
        )

    def _received(self, connection: FramedConnection, message: bytes) -> None:
        reply: protocol.Reply
        try:
            reply = self._carry_out(protocol.decode_request(message))
        except (ValueError, OSError, msgspec.DecodeError) as error:
            reply = protocol.Failed(str(error))
        connection.send(protocol.encode(reply))

    def _carry_out(self, request: protocol.Request) -> protocol.Reply:
        match request:
            case protocol.Hello():
                return protocol.Welcome(protocol.PROTOCOL_VERSION, self._instance_tag, os.getpid())
            case protocol.SetNetwork(network_id=network_id, records=records, name=name):
                self._table.set_network(network_id, records, name)
            case protocol.RemoveNetwork(network_id=network_id):
                self._table.remove_network(network_id)
            case protocol.AddSandbox(sandbox_id=sandbox_id, sandbox=sandbox):
                failures = self._serve({sandbox_id: sandbox})
                if failures:
                    return protocol.Failed(failures[sandbox_id])
            case protocol.RemoveSandbox(sandbox_id=sandbox_id):
                self._remove_sandbox(sandbox_id)
            case protocol.Feed():
                return protocol.Done(self._feed(request))
            case protocol.GetStatus():
                return self._status()
            case protocol.Stop():
                self._loop.stop()
        return protocol.Done()

    def _feed(self, feed: protocol.Feed) -> dict[str, str]:
        for network_id, records in feed.networks.items():
            self._table.set_network(network_id, records, feed.network_names.get(network_id, ""))
        for network_id in self._table.network_ids:
            if network_id not in feed.networks:
                self._table.remove_network(network_id)
        for sandbox_id in self._server.sandbox_ids:
            if sandbox_id not in feed.sandboxes:
                self._remove_sandbox(sandbox_id)
        failures = self._serve(feed.sandboxes)
        print(f"fed: {len(feed.networks)} networks, {len(feed.sandboxes)} sandboxes, {len(failures)} failed", file=sys.stderr)
        return failures

    def _serve(self, sandboxes: Mapping[str, SandboxConfig]) -> dict[str, str]:
        """Serve these sandboxes; return why for each that cannot be. A namespace that is served already keeps its sockets."""
        failures: dict[str, str] = {}
        missing: list[str] = []
        for sandbox_id, sandbox in sandboxes.items():
            self._table.set_sandbox(sandbox_id, sandbox.network_ids, sandbox.search)
            self._forwarder.set_upstreams(sandbox_id, sandbox.netns_path, sandbox.upstreams)
            inode = self._server.inode_of(sandbox_id)
            if inode is None or not _is_namespace(sandbox.netns_path, inode):
                missing.append(sandbox_id)
        if not missing:
            return failures
        opened = open_in_namespaces([sandboxes[i].netns_path for i in missing])
        for sandbox_id, sockets in zip(missing, opened, strict=True):
            if isinstance(sockets, OSError):
                self._remove_sandbox(sandbox_id)
                failures[sandbox_id] = f"cannot serve DNS in {sandboxes[sandbox_id].netns_path}: {sockets}"
            else:
                self._server.add(sandbox_id, sockets)
        return failures

    def _remove_sandbox(self, sandbox_id: str) -> None:
        self._server.remove(sandbox_id)
        self._table.remove_sandbox(sandbox_id)
        self._forwarder.set_upstreams(sandbox_id, "", ())

    def _status(self) -> protocol.Status:
        return protocol.Status(
            os.getpid(), self._table.network_ids, self._server.sandbox_ids, self._server.queries, self._forwarder.forwarded
        )


def _is_namespace(path: str, inode: int) -> bool:
    try:
        return namespace_inode(path) == inode
    except OSError:
        return False
