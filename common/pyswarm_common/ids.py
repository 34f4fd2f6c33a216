"""Random identifiers, as Swarm makes them: 25 characters of base 36 for objects, 64 hex digits for containers."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
OBJECT_ID_LENGTH = 25
CONTAINER_ID_LENGTH = 64
_random_bits: ContextVar[Callable[[int], int]] = ContextVar("random_bits", default=secrets.randbits)


def new_id() -> str:
    """Return a new object id: 25 characters of base 36 from 17 random bytes (SwarmKit's `identity/randomid.go`)."""
    return base36(_random_bits.get()(17 * 8), OBJECT_ID_LENGTH)[-OBJECT_ID_LENGTH:]


@contextlib.contextmanager
def ids_drawn_from(random_bits: Callable[[int], int]) -> Iterator[None]:
    """Let `new_id` take its randomness from this function (number of bits → number) inside the block: for seeded simulations."""
    token = _random_bits.set(random_bits)
    try:
        yield
    finally:
        _random_bits.reset(token)


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
