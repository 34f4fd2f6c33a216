"""The network driver's part that knows this node's keys, and adds its end of encrypted overlays to what should be."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.converger import Converger
from pyswarm_netplugin.secure.desired import SecureSettings, secure_network
from pyswarm_netplugin.secure.memory import SecureFile, SecureMemory, choose_port, is_port_free, new_private_key
from pyswarm_netplugin.secure.records import Encryption, Secret, SecureKeys, SecureNetwork
from pyswarm_netplugin.state import State


class SecureSide:
    """Nothing is looked for or made before it is needed: by an encrypted network, or by a node that describes itself.

    `lock` and `converge` are the driver's: `encryption` and `take_network_key` are asked from outside, the rest by the driver.
    """

    def __init__(
        self,
        path: Path,
        address: str,
        converger: Converger,
        lock: asyncio.Lock,
        converge: Callable[[], Awaitable[object]],
    ) -> None:
        self._file = SecureFile(path)
        self._address = address
        self._converger = converger
        self._lock = lock
        self._converge = converge
        self._memory: SecureMemory | None = None
        self._last: SecureNetwork | None = None

    async def encryption(self) -> Encryption:
        """Return whether this node can encrypt, and how others reach it. Raises FailedPrecondition, OSError."""
        async with self._lock:
            found = await self._converger.encryption()
            if not found.kind:
                return found
            memory = await self._ensure_memory()
        return msgspec.structs.replace(found, public_key=memory.public_key, port=memory.port)

    async def take_network_key(self, key: str) -> None:
        """Use this key of the cluster with all peers, and remember it; their sessions go on. Raises OSError."""
        async with self._lock:
            memory = await self._ensure_memory()
            if memory.preshared_key == key:
                return
            changed = msgspec.structs.replace(memory, preshared_key=key)
            await self._converger.in_thread(lambda: self._file.write(changed))
            self._memory = changed
            await self._converge()

    async def prepare(self, views: Mapping[str, NetworkView]) -> None:
        """Make or read the keys if one of these networks is encrypted. Raises FailedPrecondition, OSError."""
        if any(view.is_encrypted for view in views.values()):
            await self._ensure_memory()

    def added_to(self, state: State, views: Mapping[str, NetworkView], underlay_mtu_bytes: int) -> State:
        """Return the state with the encryption that these views need, once `prepare` was called for them.

        The encryption is the same object as the last time when it is equal.
        """
        memory = self._memory
        if memory is None or not any(view.is_encrypted for view in views.values()):
            self._last = None
            return state
        keys = SecureKeys(private=Secret(memory.private_key), preshared=Secret(memory.preshared_key))
        settings = SecureSettings(self._address, memory.port, memory.public_key, underlay_mtu_bytes, keys)
        wanted = secure_network(settings, views.values())
        if wanted != self._last:
            self._last = wanted
        return msgspec.structs.replace(state, secure=self._last, secure_keys=keys)

    async def _ensure_memory(self) -> SecureMemory:
        if self._memory is None:
            observed = await self._converger.observed()
            self._memory = await self._converger.in_thread(lambda: self._remembered(observed.secure))
        return self._memory

    def _remembered(self, standing: SecureNetwork | None) -> SecureMemory:
        known = self._file.read()
        memory = known or SecureMemory(private_key=new_private_key())
        is_ours = standing is not None and standing.port in (memory.port, 0)
        if not memory.port or not (is_ours or is_port_free(memory.port)):
            memory = msgspec.structs.replace(memory, port=choose_port())
        if memory != known:
            self._file.write(memory)
        return memory
