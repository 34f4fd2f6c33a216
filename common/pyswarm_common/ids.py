"""Random identifiers, as Swarm makes them: 25 characters of base 36 for objects, 64 hex digits for containers."""

import os
import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
OBJECT_ID_LENGTH = 25
CONTAINER_ID_LENGTH = 64


def new_id() -> str:
    """Return a new object id: 25 characters of base 36 from 17 random bytes (SwarmKit's `identity/randomid.go`)."""
    return base36(int.from_bytes(os.urandom(17), "big"), OBJECT_ID_LENGTH)[-OBJECT_ID_LENGTH:]


def new_container_id() -> str:
    """Return a new container id: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def base36(number: int, width: int) -> str:
    """Return `number` in base 36, padded on the left with zeros to at least `width` characters."""
    digits: list[str] = []
    while number:
        number, remainder = divmod(number, 36)
        digits.append(_ALPHABET[remainder])
    return "".join(reversed(digits)).rjust(width, "0")
