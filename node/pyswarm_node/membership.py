"""What a node remembers of its cluster, on disk: who it is, its certificate and keys, and where the managers are.

    <data dir>/swarm/state.json              node id, cluster id, role, addresses, managers
    <data dir>/swarm/certificates/           root-ca.crt, node.crt, node.key
    <data dir>/swarm/data-keys.json          managers: the keys of the store's envelopes
    <data dir>/swarm/etcd/                   managers: the etcd member

`state.json` is written last: a folder without it is a join or init that was cut off, and counts as no membership.
"""

import shutil
import ssl
from pathlib import Path

import msgspec

from pyswarm_common import pki
from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import write_atomically
from pyswarm_common.objects import Record
from pyswarm_common.wire import ManagerAddress


class Membership(Record, frozen=True, kw_only=True):
    """A node's place in its cluster. `advertise_address` is a bare IP; `listen_address` and `node_address` are host:port."""

    node_id: str
    cluster_id: str
    role: str
    advertise_address: str
    data_path_address: str
    listen_address: str = "0.0.0.0:2377"
    node_address: str = ""
    managers: tuple[ManagerAddress, ...] = ()
    etcd_peer_port: int = 0
    data_path_port: int = 4789

    @property
    def is_manager(self) -> bool:
        """Whether this node runs a manager."""
        return self.role == "manager"


class MembershipStore:
    """The folder that holds the membership."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "swarm"
        self.certificates = self.folder / "certificates"
        self.root_path = self.certificates / "root-ca.crt"
        self.certificate_path = self.certificates / "node.crt"
        self.key_path = self.certificates / "node.key"
        self.etcd_dir = self.folder / "etcd"
        self._state_path = self.folder / "state.json"
        self._data_keys_path = self.folder / "data-keys.json"

    def load(self) -> Membership | None:
        """Return the membership, or None when the node is in no cluster. Raises PyswarmError when it cannot be read."""
        try:
            return msgspec.json.decode(self._state_path.read_bytes(), type=Membership)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise PyswarmError(
                f"{self._state_path} cannot be read ({error}): this node does not know its cluster any more; "
                f"restore the file, or remove {self.folder} and join again"
            ) from error

    def save(self, membership: Membership) -> None:
        """Write the membership; from now on the node belongs to the cluster."""
        write_atomically(self._state_path, msgspec.json.format(msgspec.json.encode(membership)))

    def save_certificate(self, *, root_pem: str, certificate_pem: str, key_pem: str) -> None:
        """Write the CA's certificate and the node's own with its key."""
        self.certificates.mkdir(parents=True, exist_ok=True)
        self.certificates.chmod(0o700)
        write_atomically(self.root_path, root_pem.encode(), mode=0o644)
        write_atomically(self.key_path, key_pem.encode())
        write_atomically(self.certificate_path, certificate_pem.encode(), mode=0o644)

    def private_key(self) -> str:
        """Return the node's private key (PEM), made at the first call: a join that is tried again keeps its key."""
        if not self.key_path.exists():
            write_atomically(self.key_path, pki.new_private_key_pem().encode())
        return self.key_path.read_text()

    def save_data_keys(self, encoded: bytes) -> None:
        """Write the keys of the store's envelopes."""
        write_atomically(self._data_keys_path, encoded)

    def load_data_keys(self) -> bytes:
        """Return the keys of the store's envelopes as saved."""
        return self._data_keys_path.read_bytes()

    def forget(self) -> None:
        """Leave no trace of the cluster; the state goes first."""
        self._state_path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def server_tls(self) -> ssl.SSLContext:
        """Return the TLS settings of the node port: a client certificate is asked for, routes demand it where needed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate_path, self.key_path)
        context.load_verify_locations(self.root_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context
