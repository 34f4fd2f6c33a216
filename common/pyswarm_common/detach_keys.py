"""The keys by which one leaves a terminal without ending what runs there; pure. Source: moby/term `ascii.go` and `proxy.go`."""

from pyswarm_common.errors import InvalidArgument

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = {f"ctrl-{character}": number for number, character in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}


def parse_detach_keys(text: str) -> bytes:
    """Return the keys of `ctrl-p,ctrl-q`, `a,b` or `DEL`; "" means the default. Raises InvalidArgument."""
    return bytes(_key(name) for name in (text or DEFAULT_DETACH_KEYS).split(","))


def _key(name: str) -> int:
    if len(name) == 1 and name.isascii():
        return ord(name)
    if name == "DEL":
        return 127
    if name not in _CONTROLS:
        raise InvalidArgument(f"invalid detach keys: unknown character: '{name}'")
    return _CONTROLS[name]


class DetachFilter:
    """Finds the keys in what somebody types. The beginning of them is held back until it is clear what it is."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        self.is_detached = False

    def pass_on(self, data: bytes) -> bytes:
        """Return what goes on to the process; once the keys were typed, `is_detached`, and what follows them is dropped."""
        passed = bytearray()
        for byte in data:
            if self._held and byte != self._keys[self._held]:
                passed += self._keys[: self._held]
                self._held = 0
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self.is_detached = True
                    break
            else:
                passed.append(byte)
        return bytes(passed)

    def held_back(self) -> bytes:
        """Return what is still held back, for when nothing more comes."""
        held, self._held = self._keys[: self._held], 0
        return b"" if self.is_detached else held
