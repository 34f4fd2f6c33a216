"""How an image came to be, and what shares its layers: questions about images that need no disk. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from pyswarm_agent.images.records import HistoryStep, Image


class _Step(msgspec.Struct):
    created: str | None = ""
    created_by: str | None = ""
    comment: str | None = ""
    empty_layer: bool = False


class _HistoryFile(msgspec.Struct):
    history: list[_Step] | None = None


def history_of(image: Image, raw_config: bytes, layer_bytes: Callable[[str], int]) -> list[HistoryStep]:
    """Return the steps that made an image, the newest first; layers that no step speaks of become steps of their own."""
    steps = _steps(raw_config)
    layers = list(image.layer_ids)
    made = []
    for step in steps:
        size_bytes = layer_bytes(layers.pop(0)) if not step.empty_layer and layers else 0
        made.append(HistoryStep(step.created or "", step.created_by or "", step.comment or "", size_bytes))
    made += [HistoryStep(image.created, "", "", layer_bytes(layer_id)) for layer_id in layers]
    return made[::-1]


def _steps(raw_config: bytes) -> list[_Step]:
    """A history that makes no sense counts as none: nothing but this question needs it."""
    try:
        return msgspec.json.decode(raw_config, type=_HistoryFile).history or []
    except (msgspec.DecodeError, RecursionError):
        return []


def shared_bytes(images: Iterable[Image], layer_bytes: Callable[[str], int]) -> dict[str, int]:
    """Return by image id how much of it other images have too."""
    listed = list(images)
    owners = Counter(layer_id for image in listed for layer_id in set(image.layer_ids))
    return {image.id: sum(layer_bytes(layer_id) for layer_id in set(image.layer_ids) if owners[layer_id] > 1) for image in listed}
