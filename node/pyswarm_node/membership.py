"""What a node remembers of its cluster, on disk: who it is, its certificate and keys, and where the managers are.

    <data dir>/swarm/state.json              node id, cluster id, role, addresses, managers
    <data dir>/swarm/certificates/           root-ca.crt, node.crt, and node-keys.json with all secrets (`key_file`)
    <data dir>/swarm/etcd/                   managers: the etcd member
    <runtime dir>/certificates/node.key      the private key for programs that need it as a file, while it is not locked

`state.json` is written last: a folder without it is a join or init that was cut off, and counts as no membership.
"""

import shutil
import ssl
from functools import cached_property
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pyswarm_common import pki
from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import remove_for_good, write_atomically
from pyswarm_common.objects import Record
from pyswarm_common.wire import ManagerAddress
from pyswarm_node.key_file import KeyFile, Secrets
from pyswarm_node.working_copy import WorkingCopy


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
    is_address_foreign: bool = False
    """Whether the advertised address is not this machine's own, as behind NAT: then it is never changed without being asked."""
    incarnation: int = 0
    """The highest incarnation of the cluster that was seen."""

    @property
    def is_manager(self) -> bool:
        """Whether this node runs a manager."""
        return self.role == "manager"

    @property
    def other_managers(self) -> tuple[ManagerAddress, ...]:
        """The managers that this node knows besides itself."""
        return tuple(m for m in self.managers if m.node_id != self.node_id)


class MembershipStore:
    """The folder that holds the membership. While its key file is locked, all that needs a key raises Unavailable."""

    def __init__(self, data_dir: Path, runtime_dir: Path) -> None:
        self.folder = data_dir / "swarm"
        self.certificates = self.folder / "certificates"
        self.root_path = self.certificates / "root-ca.crt"
        self.certificate_path = self.certificates / "node.crt"
        self.etcd_dir = self.folder / "etcd"
        self._state_path = self.folder / "state.json"
        self._working_copy = WorkingCopy(runtime_dir / "certificates" / "node.key")

    def load(self) -> Membership | None:
        """Return the membership, or None when the node is in no cluster. Raises PyswarmError when it cannot be read."""
        try:
            return msgspec.json.decode(self._state_path.read_bytes(), type=Membership)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise PyswarmError(
                f"{self._state_path} cannot be read ({error}): this node does not know its cluster any more. Put the file back "
                "and restart pyswarmd, or let the node leave (`pyswarm swarm leave --force`) and join again; the only manager of "
                "a swarm comes back with `pyswarm swarm restore FILE`"
            ) from error

    def save(self, membership: Membership) -> None:
        """Write the membership; from now on the node belongs to the cluster."""
        write_atomically(self._state_path, msgspec.json.format(msgspec.json.encode(membership)))

    @cached_property
    def keys(self) -> KeyFile:
        """The node's secrets on disk."""
        keys = KeyFile(self.certificates / "node-keys.json")
        self._take_over_former_files(keys)
        return keys

    @property
    def is_locked(self) -> bool:
        """Whether the node's keys lie under an unlock key that was not given yet."""
        return self.keys.is_locked

    def unlock(self, unlock_key: str) -> None:
        """Open the key file. Raises InvalidArgument for what is no unlock key, Unauthenticated for a wrong one."""
        self.keys.unlock(unlock_key)

    @property
    def unlock_key(self) -> str:
        """The key under which the node's keys lie, "" when they are plain."""
        return self.keys.unlock_key

    def change_lock(self, unlock_key: str) -> None:
        """Keep the node's keys under this unlock key, or plain for "", from now on, also those that are saved later.

        Raises OSError, as when the disk is full: then all is as before.
        """
        self.keys.change_lock(unlock_key)
        if self.certificate_path.exists():
            self._provide_working_copy()

    @property
    def key_path(self) -> Path:
        """The file that holds the private key for other programs, made if it is not there."""
        self._provide_working_copy()
        return self._working_copy.path

    def save_certificate(self, *, root_pem: str, certificate_pem: str, key_pem: str) -> None:
        """Write the CA's certificate and the node's own with its key; cut off anywhere, key and certificate match."""
        self.certificates.mkdir(parents=True, exist_ok=True)
        self.certificates.chmod(0o700)
        self._save_private_keys(key_pem, *self.keys.secrets.private_keys)
        write_atomically(self.root_path, root_pem.encode(), mode=0o644)
        write_atomically(self.certificate_path, certificate_pem.encode(), mode=0o644)
        self._provide_working_copy()
        self._save_private_keys(key_pem)

    def private_key(self) -> str:
        """Return the node's private key (PEM), made at the first call: a join that is tried again keeps its key.

        Until there is a certificate for it, it lies in the runtime directory only: nobody knows yet whether it must be locked.
        """
        held = self._key_of_certificate() or self._working_copy.read()
        if not held:
            held = pki.new_private_key_pem()
            self._working_copy.provide(held, must_stay_in_memory=False)
        return held

    def save_data_keys(self, encoded: bytes, unlock_key: str | None = None) -> None:
        """Keep the keys of the store's envelopes; with an unlock key given, under that from now on, in the same step."""
        lock = self.unlock_key if unlock_key is None else unlock_key
        self.keys.write(msgspec.structs.replace(self.keys.secrets, data_keys=encoded), lock)

    def load_data_keys(self) -> bytes:
        """Return the keys of the store's envelopes as saved. Raises PyswarmError when there are none."""
        if not (data_keys := self.keys.secrets.data_keys):
            raise PyswarmError(
                "this manager has lost the keys of its store: let it leave (`pyswarm swarm leave --force`) and join again; "
                "the only manager of a swarm comes back with `pyswarm swarm restore FILE`"
            )
        return data_keys

    def put_keys_away(self) -> None:
        """Remove what is plain of a locked node's keys; for when nothing that needs them runs."""
        self._working_copy.remove()

    def forget_manager(self) -> None:
        """Remove what only a manager has: the data of its etcd member, the keys that open it, and the lock."""
        if self.keys.secrets.data_keys or self.unlock_key:
            self.keys.write(Secrets(private_keys=self.keys.secrets.private_keys), "")
        self.forget_etcd()

    def forget_etcd(self) -> None:
        """Remove the data of the etcd member, and what was set aside of earlier ones."""
        for path in self.folder.glob("etcd.*"):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.etcd_dir, ignore_errors=True)

    def forget_unfinished(self) -> None:
        """Remove what is left of a join or init that was cut off, but for its key: with that a second try is the same node."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self) -> None:
        """Leave no trace of the cluster; the state goes first."""
        remove_for_good(self._state_path)
        self.keys.remove()
        self._working_copy.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def server_tls(self) -> ssl.SSLContext:
        """Return the TLS settings of the node port: a client certificate is asked for, routes demand it where needed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate_path, self.key_path)
        context.load_verify_locations(self.root_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _save_private_keys(self, *key_pems: str) -> None:
        private_keys = tuple(dict.fromkeys(key_pems))
        if private_keys != self.keys.secrets.private_keys:
            self.keys.write(msgspec.structs.replace(self.keys.secrets, private_keys=private_keys), self.unlock_key)

    def _key_of_certificate(self) -> str:
        """Return the private key that is in use, "" when there is none."""
        private_keys = self.keys.secrets.private_keys
        if len(private_keys) < 2 or not self.certificate_path.exists():
            return private_keys[0] if private_keys else ""
        public_key = x509.load_pem_x509_certificate(self.certificate_path.read_bytes()).public_key()
        return next(
            (pem for pem in private_keys if load_pem_private_key(pem.encode(), password=None).public_key() == public_key),
            private_keys[0],
        )

    def _provide_working_copy(self) -> None:
        if key := self._key_of_certificate():
            self._working_copy.provide(key, must_stay_in_memory=bool(self.unlock_key))

    def _take_over_former_files(self, keys: KeyFile) -> None:
        """Earlier versions kept the secrets in two plain files."""
        key, data_keys = self.certificates / "node.key", self.folder / "data-keys.json"
        if key.exists() and not keys.exists:
            keys.write(
                Secrets(private_keys=(key.read_text(),), data_keys=data_keys.read_bytes() if data_keys.exists() else b""), ""
            )
        for path in (key, data_keys):
            path.unlink(missing_ok=True)
