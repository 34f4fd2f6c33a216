"""The TLS settings of the node port, which follow the node's certificate and roots while the port is open.

A listening socket keeps the context that it began with; each handshake, however, asks that one's callback, which puts the context
of the present files in its place. Without tickets every connection is a full handshake, so a root that is not trusted any more
opens nothing.
"""

import ssl
from typing import TypeAlias

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_node.membership import MembershipStore

_Stamp: TypeAlias = tuple[tuple[int, int], ...]

_log = structlog.get_logger()


class NodePortTLS:
    """A client certificate is asked for, and must be of the cluster's CA if there is one; routes demand it where needed."""

    def __init__(self, files: MembershipStore) -> None:
        self._files = files
        self._stamp = self._stamp_of_files()
        self._present = self._read()
        self.context = self._read()
        """What to listen with."""
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, server_name: str, context: ssl.SSLContext) -> None:
        connection.context = self._up_to_date()

    def _up_to_date(self) -> ssl.SSLContext:
        stamp = self._stamp_of_files()
        if stamp != self._stamp:
            try:
                self._present = self._read()
                self._stamp = stamp
            except (OSError, PyswarmError) as error:  # ssl.SSLError is an OSError
                _log.error("node_port.certificate_not_read", error=str(error))
        return self._present

    def _stamp_of_files(self) -> _Stamp:
        found = (path.stat() for path in (self._files.certificate_path, self._files.root_path))
        return tuple((status.st_mtime_ns, status.st_ino) for status in found)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.load_cert_chain(self._files.certificate_path, self._files.key_path)
        context.load_verify_locations(self._files.root_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context
