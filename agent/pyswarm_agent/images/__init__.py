"""Images: pull them from registries, load them from tarballs, keep their layers unpacked for overlayfs.

`ImageStore` is the one entrance. The names below are imported on first use, because the unpacker runs as
`python -m pyswarm_agent.images.unpack`, once a layer, and must not pay for an HTTP client that it never uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyswarm_agent.images.records import (
        Descriptor,
        Image,
        ImageConfig,
        Platform,
        PullProgress,
        PushedTag,
        RegistryAuth,
        Removal,
    )
    from pyswarm_agent.images.reference import Reference, parse_reference
    from pyswarm_agent.images.store import ImageStore

__all__ = [
    "Descriptor",
    "Image",
    "ImageConfig",
    "ImageStore",
    "Platform",
    "PullProgress",
    "PushedTag",
    "Reference",
    "RegistryAuth",
    "Removal",
    "parse_reference",
]

_HOMES = {"ImageStore": "store", "Reference": "reference", "parse_reference": "reference"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'records')}"), name)
