"""A CA and a node certificate as files, for tests whose servers and clients speak real mutual TLS."""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

from pyswarm_agent.session import client_tls
from pyswarm_common import pki


@dataclass(frozen=True)
class Certificates:
    """A cluster's CA, and the key pair of one node that serves both ends."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, role: str = "manager") -> "Certificates":
        """Write root.pem, node.pem and node.key."""
        now = datetime.datetime.now(datetime.UTC)
        root, root_key = pki.new_root(now)
        key = pki.new_private_key_pem()
        identity = pki.NodeIdentity(node_id="manager1", role=role, cluster_id="c1")
        certificate = pki.sign_node_certificate(root, root_key, pki.new_signing_request(key), identity, ("127.0.0.1",), now)
        folder.mkdir(exist_ok=True)
        for name, pem in (("root.pem", root), ("node.pem", certificate), ("node.key", key)):
            (folder / name).write_text(pem)
        return cls(folder)

    def server(self) -> ssl.SSLContext:
        """Return the TLS settings of a node port that wants to see a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.folder / "root.pem"))
        context.load_cert_chain(self.folder / "node.pem", self.folder / "node.key")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """Return the TLS settings of a node that dials."""
        return client_tls(*(str(self.folder / name) for name in ("node.pem", "node.key", "root.pem")))
