"""The key manager's shell: the clock, the randomness, and which events make it look."""

import base64
import secrets
from collections.abc import Iterable

from pyswarm_common.objects import Cluster, Network, Node
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.key_manager.decide import KEY, decide
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View

KEY_BYTES = 32


class KeyManager(ControlLoop):
    """Makes and rotates the key of encrypted overlays."""

    watched = (Cluster, Network, Node)

    def all_keys(self, view: View) -> Iterable[str]:
        """The only one."""
        return (KEY,)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """Networks come and go, nodes are in touch again, the period is another."""
        return (KEY,)

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())
