"""Compares two JSON values by shape: members, types, and null, absent, [] and {} told apart."""

from typing import Any


def shape_differences(ours: Any, theirs: Any, path: str = "$") -> list[str]:
    """Return where the shapes differ; list members are compared with the other list's first one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        only_ours = [f"{path}.{key}: only ours" for key in ours.keys() - theirs.keys()]
        only_theirs = [f"{path}.{key}: only theirs" for key in theirs.keys() - ours.keys()]
        shared = [d for key in ours.keys() & theirs.keys() for d in shape_differences(ours[key], theirs[key], f"{path}.{key}")]
        return sorted([*only_ours, *only_theirs, *shared])
    if isinstance(ours, list) and isinstance(theirs, list):
        if bool(ours) != bool(theirs):
            return [f"{path}: {len(ours)} members, theirs has {len(theirs)}"]
        return [d for i, item in enumerate(ours) for d in shape_differences(item, theirs[0], f"{path}[{i}]")]
    if type(ours) is not type(theirs):
        return [f"{path}: {type(ours).__name__}, theirs is {type(theirs).__name__}"]
    return []
