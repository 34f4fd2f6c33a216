"""Names of containers: which may be given, and made ones like `swift_otter`; pure."""

import random
import re
from collections.abc import Container

from pyswarm_common.errors import Conflict, InvalidArgument

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_QUALITIES_TEXT = """
amber ancient bold brave breezy bright brisk calm careful cheerful clever cosy crisp curious daring dazzling eager early
easy elegant fair faithful famous fearless fluffy fond frosty gentle gifted glad golden graceful grand happy hardy hearty
honest humble jolly keen kind lively loyal lucky merry mighty mild modest neat nimble noble patient peaceful playful plucky
polite proud quick quiet rapid ready rosy silent silver sincere sleek smart snowy sober spry steady sunny swift tender
thrifty tidy tranquil trusty upbeat valiant vivid warm wise witty zesty
"""
_CREATURES_TEXT = """
albatross alpaca antelope badger beaver bison bluebird buffalo butterfly camel caribou cheetah chamois chickadee cicada
cobra condor cormorant crane cricket curlew dolphin dormouse dove dragonfly eagle egret falcon ferret finch firefly flamingo
fox gazelle gecko gibbon goldfinch goose grouse hamster hare hawk hedgehog heron hornbill ibex ibis impala jackdaw jaguar
kestrel kingfisher koala lark lemur leopard linnet lizard llama lynx magpie manatee marmot marten meerkat merlin mongoose
moose narwhal newt nightingale ocelot octopus oriole osprey otter owl panda panther pelican penguin petrel pheasant plover
porpoise puffin puma quail rabbit raven robin salmon sandpiper seahorse seal shrew skylark sparrow squirrel starling stoat
stork swallow swan swift tapir tern thrush tiger toucan trout turtle vole walrus warbler weasel whale wolf wombat woodpecker
wren yak zebra
"""
_QUALITIES, _CREATURES = _QUALITIES_TEXT.split(), _CREATURES_TEXT.split()


def check_name(name: str) -> str:
    """Return a name without its leading slash. Raises InvalidArgument in Docker's words."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def name_conflict(name: str, holder_id: str) -> Conflict:
    """Return the error for a name that another container has."""
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{holder_id}". You have to remove (or rename) that '
        "container to be able to reuse that name."
    )


def random_name(taken: Container[str], choices: random.Random) -> str:
    """Return a name that nobody has."""
    for _ in range(6):
        name = f"{choices.choice(_QUALITIES)}_{choices.choice(_CREATURES)}"
        if name not in taken:
            return name
    number = 1
    while f"{name}{number}" in taken:
        number += 1
    return f"{name}{number}"
