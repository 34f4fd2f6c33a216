"""Generic resources: what an operator declares that a node has, such as GPUs, and how a container is told what it got. Pure.

Declared as for dockerd (`node-generic-resources`): `KIND=NAME` for a particular one, `KIND=NUMBER` for so many that cannot be told
apart. A kind is declared either way, not both (SwarmKit `api/genericresource`).
"""

import re
from collections.abc import Iterable, Sequence

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.specs import DiscreteResource, GenericResource, NamedResource

ENVIRONMENT_PREFIX = "DOCKER_RESOURCE_"
_WORD = re.compile(r"[\w.:/-]+")


def parse_generic_resources(declarations: Iterable[str]) -> tuple[GenericResource, ...]:
    """Return what these declarations (`gpu=uuid1`, `ssd=4`, several separated by commas) mean. Raises InvalidArgument."""
    names: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}
    for term in (part.strip() for text in declarations for part in text.split(",")):
        kind, equals, value = (part.strip() for part in term.partition("="))
        if not equals or not _WORD.fullmatch(kind) or not _WORD.fullmatch(value):
            raise InvalidArgument(
                f"invalid generic resource {term!r}: expected KIND=NAME or KIND=NUMBER, such as gpu=uuid1 or ssd=4"
            )
        if kind in numbers or (kind in names and value.isdecimal()) or value in names.get(kind, ()):
            raise InvalidArgument(
                f"invalid generic resource {term!r}: {kind} is declared already; give a number once, or different names"
            )
        if value.isdecimal():
            numbers[kind] = int(value)
        else:
            names.setdefault(kind, []).append(value)
    named = [GenericResource(named_resource_spec=NamedResource(kind=k, value=v)) for k, values in names.items() for v in values]
    discrete = [GenericResource(discrete_resource_spec=DiscreteResource(kind=k, value=v)) for k, v in numbers.items() if v]
    return (*named, *discrete)


def environment_of(resources: Sequence[GenericResource]) -> list[str]:
    """Return the variables that tell a container what it got: `DOCKER_RESOURCE_GPU=uuid1,uuid2`."""
    values: dict[str, list[str]] = {}
    for resource in resources:
        if (named := resource.named_resource_spec) is not None:
            values.setdefault(named.kind, []).append(named.value)
        elif (discrete := resource.discrete_resource_spec) is not None:
            values.setdefault(discrete.kind, []).append(str(discrete.value))
    return [f"{ENVIRONMENT_PREFIX}{kind.upper()}={','.join(found)}" for kind, found in values.items()]
