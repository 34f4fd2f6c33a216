"""How a member is started: its settings, its command line, and the versions that may be used."""

import asyncio
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from pyswarm_common.errors import FailedPrecondition
from pyswarm_manager.etcd.damage import bootstrapped_path

DEFAULT_PEER_PORT = 2380
PEER_HOSTNAME = "swarm-manager"
"""The role name that a peer's certificate must carry: all nodes share one CA, and this keeps workers out."""
CLIENT_SOCKET_NAME = "client.sock:0"
"""etcd 3.4 takes a relative `unix://` address only, and makes a socket of this name in its working directory."""
MAX_TRANSACTION_OPERATIONS = 1024
"""More than the store's writer puts into one transaction (`store/batch.py`)."""
_CLIENT_URL = f"unix://{CLIENT_SOCKET_NAME}"
_MAX_SOCKET_PATH_BYTES = 107
_SNAPSHOT_COUNT = 50
"""Raft entries between two snapshots. Only from a snapshot does a member that is alone know so at its start, and elects itself at
once instead of after 1 to 2 s; more of them do not slow writes down measurably."""


@dataclass(frozen=True, kw_only=True)
class EtcdSettings:
    """Everything a member is started with. `data_dir` and `runtime_dir` are this member's alone."""

    name: str
    data_dir: Path
    runtime_dir: Path
    peer_address: str
    """IP address that peers connect to; the certificate must name it."""
    peer_port: int = DEFAULT_PEER_PORT
    listen_address: str = ""
    """IP address to listen on for peers; empty: `peer_address`."""
    certificate_path: Path
    """The certificate for peers, with the node's address and `swarm-manager` in its SAN; may be replaced while the member runs."""
    key_path: Path
    root_path: Path
    """Trusted roots; read only at start."""
    revocation_path: Path | None = None
    """The list (PEM) of certificates that peers must not show any more; read at every handshake, so it must always be there."""
    other_members: dict[str, str] = field(default_factory=dict)
    """Name → peer URL of the other members when it starts for the first time."""
    initial_cluster_state: str = "new"
    """`new`, or `existing` when joining."""
    initial_cluster_token: str = "pyswarm"
    forces_a_new_cluster: bool = False
    """Whether it makes itself the only member of its cluster, keeping the data: for one start, after the others were lost."""
    quota_bytes: int = 8 << 30
    """The size of etcd's file at which it refuses writes."""
    binary: str = "etcd"

    @property
    def peer_url(self) -> str:
        """Where peers connect to."""
        return _https_url(self.peer_address, self.peer_port)

    @property
    def socket_path(self) -> Path:
        """Where clients connect to."""
        return self.runtime_dir / CLIENT_SOCKET_NAME

    @property
    def etcd_dir(self) -> Path:
        """What etcd itself keeps in the data directory."""
        return self.data_dir / "member-data"

    @property
    def bootstrapped_path(self) -> Path:
        """A file that is there once the member has served for the first time; beside the data, to outlive its loss."""
        return bootstrapped_path(self.data_dir)

    @property
    def founds_a_cluster(self) -> bool:
        """Whether this member begins a cluster alone, so that before it first served there was nothing to keep."""
        return self.initial_cluster_state == "new" and not self.other_members

    @property
    def log_path(self) -> Path:
        """Where the member logs to."""
        return self.data_dir / "etcd.log"

    def check(self) -> None:
        """Raise FailedPrecondition when the socket's path is too long for the kernel."""
        if len(bytes(self.socket_path)) > _MAX_SOCKET_PATH_BYTES:
            raise FailedPrecondition(
                f"the socket path {self.socket_path} is too long ({_MAX_SOCKET_PATH_BYTES} bytes at most): "
                "choose a shorter runtime directory"
            )

    def command(self) -> list[str]:
        """Return the command line. The child gets SIGKILL when the thread that started it ends (`setpriv --pdeathsig`)."""
        initial_cluster = {**self.other_members, self.name: self.peer_url}
        options = {
            "name": self.name,
            "data-dir": str(self.etcd_dir),
            "listen-client-urls": _CLIENT_URL,
            "advertise-client-urls": _CLIENT_URL,
            "listen-peer-urls": _https_url(self.listen_address or self.peer_address, self.peer_port),
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in sorted(initial_cluster.items())),
            "initial-cluster-state": self.initial_cluster_state,
            "initial-cluster-token": self.initial_cluster_token,
            "peer-cert-file": str(self.certificate_path),
            "peer-key-file": str(self.key_path),
            "peer-trusted-ca-file": str(self.root_path),
            "peer-cert-allowed-hostname": PEER_HOSTNAME,
            "peer-client-cert-auth": "true",
            **({"peer-crl-file": str(self.revocation_path)} if self.revocation_path else {}),
            "pre-vote": "true",
            "snapshot-count": str(_SNAPSHOT_COUNT),
            "max-txn-ops": str(MAX_TRANSACTION_OPERATIONS),
            "quota-backend-bytes": str(self.quota_bytes),
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1h",
            "logger": "zap",
            "log-level": "warn",
            "log-outputs": "stderr",
        }
        if self.forces_a_new_cluster:
            options["force-new-cluster"] = "true"
        return ["setpriv", "--pdeathsig", "KILL", self.binary, *(f"--{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        """Return the child's environment: none of ours, where ETCD_* variables would change its settings."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        if platform.machine() == "aarch64":
            environment["ETCD_UNSUPPORTED_ARCH"] = "arm64"
        return environment


async def check_version(binary: str = "etcd") -> str:
    """Return etcd's version. Raises FailedPrecondition when it is missing or must not be used."""
    try:
        process = await asyncio.create_subprocess_exec(binary, "--version", stdout=asyncio.subprocess.PIPE)
    except FileNotFoundError:
        raise FailedPrecondition(f"{binary} is not installed (Debian: apt-get install etcd-server)") from None
    output, _ = await process.communicate()
    found = re.search(rb"etcd Version: (\d+\.\d+\.\d+)", output)
    if found is None:
        raise FailedPrecondition(f"{binary} does not say its version")
    version = found.group(1).decode()
    refuse_unfit_version(version)
    return version


def refuse_unfit_version(version: str) -> None:
    """Raise FailedPrecondition unless this etcd version is known to be sound."""
    major, minor, patch = (int(part) for part in version.split("."))
    if (major, minor) == (3, 5) and patch <= 5:
        raise FailedPrecondition(
            f"etcd {version} can corrupt its data (3.5.0 to 3.5.5): install 3.5.6 or later, or 3.4.22 or later"
        )
    if (major, minor, patch) < (3, 4, 22) or major > 3:
        raise FailedPrecondition(f"etcd {version} is not supported: install 3.4.22 or later, or 3.5.6 or later")


def _https_url(address: str, port: int) -> str:
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
