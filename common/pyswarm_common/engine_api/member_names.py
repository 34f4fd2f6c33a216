"""Member names of posted JSON in any case: Docker's (Go's) decoder does not care, and the Python SDK sends `{"replicated": …}`."""

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect


def with_canonical_names(value: Any, type_: type[msgspec.Struct]) -> Any:
    """Return decoded JSON with the members that the struct knows, at any depth, named as the struct names them.

    An exact name wins over one in another case; unknown members stay as they are.
    """
    return _rename(value, _type_info(type_))


@lru_cache(maxsize=64)
def _type_info(type_: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(type_)


def _rename(value: Any, info: inspect.Type) -> Any:
    if isinstance(info, inspect.UnionType):
        kinds = inspect.StructType if isinstance(value, dict) else inspect.ListType
        return next((_rename(value, one) for one in info.types if isinstance(one, kinds)), value)
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return [_rename(item, info.item_type) for item in value]
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        return _rename_members(value, info)
    return value


def _rename_members(value: dict[str, Any], info: inspect.StructType) -> dict[str, Any]:
    fields = {field.encode_name: field for field in info.fields}
    names = {name.lower(): name for name in fields}
    renamed: dict[str, Any] = {}
    for key, member in value.items():
        name = key if key in fields else names.get(key.lower(), key)
        if name != key and name in value:
            continue
        renamed[name] = _rename(member, fields[name].type) if name in fields else member
    return renamed
