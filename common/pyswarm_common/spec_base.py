"""The base of all typed views of specs."""

import msgspec


class Spec(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True, gc=False):
    """Base of the typed views: Engine API field names, unknown fields ignored."""
