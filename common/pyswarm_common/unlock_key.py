"""The unlock key of a cluster whose managers lock their key files (autolock): 32 random bytes, written as Docker writes them.

SWMKEY-1-<base64 without padding, 43 characters>
"""

import base64
import binascii
import secrets

from pyswarm_common.errors import InvalidArgument

UNLOCK_KEY_BYTES = 32
_PREFIX = "SWMKEY-1-"


def new_unlock_key() -> str:
    """Return a new random unlock key."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(UNLOCK_KEY_BYTES)).decode().rstrip("=")


def parse_unlock_key(text: str) -> bytes:
    """Return the bytes of an unlock key. Raises InvalidArgument, beginning with Docker's words, when it is none."""
    encoded = text.strip().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        key = b""
    if not text.strip().startswith(_PREFIX) or len(key) != UNLOCK_KEY_BYTES:
        raise InvalidArgument(f"invalid key string: an unlock key looks like {_PREFIX}<43 characters>")
    return key
