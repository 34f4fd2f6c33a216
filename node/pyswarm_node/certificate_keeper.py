"""Keeps this node's certificate and the roots that it trusts as the cluster wants them, while everything goes on.

A new certificate, with a new key, is asked for

  * at a random point of 50 to 80 % of its life, found by looking at the wall clock each minute: clocks may jump;
  * at once when the cluster's root changes, when the node gets another role, when its address changed, and when the certificate was
    revoked: a manager that was demoted and promoted again while it was down has the right role, and etcd refuses it.

Sessions that are open go on with the certificate that they began with; what is opened from then on takes the new one: the agent's
dialler and the node port read the files when they need them (`node_tls`), etcd does at every handshake.
"""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from pyswarm_common import pki, pki_chain
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.failpoints import failpoint
from pyswarm_common.files import write_atomically
from pyswarm_common.objects import NodeTLS
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import CERTIFICATE_PATH, CertificateAnswer, CertificateRequest, NodeState
from pyswarm_node.membership import Membership, MembershipStore

LOOK_PERIOD_S = 60.0
EARLIEST_OF_LIFE, LATEST_OF_LIFE = 0.5, 0.8
SPREAD_S = 1.0
"""Over which time the nodes of a cluster ask for new certificates when all of them have to."""
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 15.0
ANSWER_TIMEOUT_S = 10.0

Post = Callable[[str, bytes, float], Awaitable[bytes]]
"""Posts a body to a path of whichever known manager answers within the time (`entering.ManagerDirectory.post`)."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Present:
    """The certificate in use."""

    pem: str
    serial: str
    role: str
    addresses: tuple[str, ...]
    renew_at: datetime.datetime


class CertificateKeeper:
    """The keeper. `random` gives numbers from 0 to 1; `on_change` is called when `tls` says something else than before."""

    def __init__(
        self,
        files: MembershipStore,
        membership: Callable[[], Membership],
        post: Post,
        clock: Clock,
        random: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._files = files
        self._membership = membership
        self._post = post
        self._clock = clock
        self._random = random
        self._on_change = on_change
        self._wanted_role = ""
        self._wanted_issuer = ""
        self._valid_serials: tuple[str, ...] | None = None
        self._etcd_trust_digest = ""
        self._present: _Present | None = None
        self._wake = asyncio.Event()
        self._renewed = asyncio.Event()
        self.is_etcd_restart_due = asyncio.Event()
        """Set while the cluster wants this manager's etcd member to be restarted."""

    async def run(self) -> None:
        """Run until cancelled. Whatever fails is tried again."""
        failures = 0
        while True:
            self._wake.clear()
            reason = self._reason_to_renew()
            if not reason:
                failures = 0
                await wait_first(self._wake.wait(), self._clock.sleep(LOOK_PERIOD_S))
                continue
            delay_s = SPREAD_S if reason == _OTHER_ROOT else 0.0
            if failures:
                delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures, 10))
            await self._clock.sleep(delay_s * self._random())
            failures += 1  # also when it gets what it did not ask for: then it must not ask in a circle
            try:
                await self._renew(reason)
            except (PyswarmError, OSError, msgspec.DecodeError) as error:
                _log.warning("certificate.not_renewed", reason=reason, error=str(error))

    async def ensure_role(self, role: str) -> None:
        """Return when the node's certificate is for this role; needs `run`."""
        self._wanted_role = role
        self._wake.set()
        while self.present_role != role:
            self._renewed.clear()
            await self._renewed.wait()

    def follow(self, state: NodeState) -> None:
        """Take in what the manager says: roots to trust from now on, who shall have signed, for which role. Raises OSError."""
        self._wanted_role = state.role
        self._wanted_issuer = state.issuer_digest
        self._valid_serials = state.certificate_serials
        if state.trust_pem:
            self._trust(state.trust_pem)
        if state.is_etcd_restart_due:
            self.is_etcd_restart_due.set()
        else:
            self.is_etcd_restart_due.clear()
        self._wake.set()

    def tls(self) -> NodeTLS:
        """Return which roots this node uses, for its description."""
        trust_pem = self._trusted()
        pem = self._certificate().pem if self._files.certificate_path.exists() else ""
        return NodeTLS(
            issuer_digest=pki_chain.issuer_digest(pem, trust_pem) if pem else "",
            trust_digest=pki_chain.bundle_digest(trust_pem),
            etcd_trust_digest=self._etcd_trust_digest,
        )

    def trust_digest(self) -> str:
        """Return the digest of the roots that are trusted now: those that an etcd which is started now reads."""
        return pki_chain.bundle_digest(self._trusted())

    def note_etcd_trust(self, digest: str) -> None:
        """Say which roots the etcd member was started with; "" when it has ended."""
        if digest != self._etcd_trust_digest:
            self._etcd_trust_digest = digest
            self._on_change()

    @property
    def present_role(self) -> str:
        """The role in the certificate."""
        return self._certificate().role

    def _reason_to_renew(self) -> str:
        """Return why the certificate does not do any more; "" when it does."""
        present = self._certificate()
        now = datetime.datetime.fromtimestamp(self._clock.now_ns() / NANOSECONDS_PER_SECOND, datetime.UTC)
        if self._wanted_role and present.role != self._wanted_role:
            return f"it is for a {present.role}, and the node is a {self._wanted_role}"
        if self._wanted_issuer and pki_chain.issuer_digest(present.pem, self._trusted()) != self._wanted_issuer:
            return _OTHER_ROOT
        if self._valid_serials is not None and present.serial not in self._valid_serials:
            return "it was revoked"
        if self._membership().advertise_address not in present.addresses:
            return "it does not name the node's address"
        return "its time has come" if now >= present.renew_at else ""

    async def _renew(self, reason: str) -> None:
        membership = self._membership()
        key_pem = pki.new_private_key_pem()
        addresses = dict.fromkeys((membership.advertise_address, membership.data_path_address, "127.0.0.1"))
        request = CertificateRequest(signing_request_pem=pki.new_signing_request(key_pem), addresses=tuple(addresses))
        body = await self._post(CERTIFICATE_PATH, msgspec.json.encode(request), ANSWER_TIMEOUT_S)
        answer = msgspec.json.decode(body, type=CertificateAnswer)
        failpoint("renew/answered")
        self._files.save_certificate(root_pem=answer.root_certificate_pem, certificate_pem=answer.certificate_pem, key_pem=key_pem)
        failpoint("renew/saved")
        self._present = None
        serial = pki_chain.certificate_info(answer.certificate_pem).serial
        if self._valid_serials is not None:
            self._valid_serials += (serial,)  # the manager's message that says so may come later
        _log.info("certificate.renewed", reason=reason, role=answer.role, serial=serial)
        self._renewed.set()
        self._on_change()

    def _trust(self, trust_pem: str) -> None:
        if trust_pem != self._trusted():
            write_atomically(self._files.root_path, trust_pem.encode(), mode=0o644)
            failpoint("renew/trusted")
            _log.info("certificate.trust_changed", roots=len(pki_chain.split_bundle(trust_pem)))
            self._on_change()

    def _trusted(self) -> str:
        return self._files.root_path.read_text() if self._files.root_path.exists() else ""

    def _certificate(self) -> _Present:
        """Return the certificate in use; when it is to be renewed is drawn once, when it is first looked at."""
        if self._present is None:
            pem = self._files.certificate_path.read_text()
            info = pki_chain.certificate_info(pem)
            begins = info.not_before + pki.BACKDATE
            share = EARLIEST_OF_LIFE + (LATEST_OF_LIFE - EARLIEST_OF_LIFE) * self._random()
            role = pki.identity_of(pem.encode()).role
            self._present = _Present(pem, info.serial, role, info.addresses, begins + (info.not_after - begins) * share)
        return self._present


_OTHER_ROOT = "the cluster's root has changed"
