"""Names for services that their user did not name: an adjective and a name from computing's history."""

import secrets

_ADJECTIVES = (
    "brave", "bright", "calm", "clever", "cosmic", "curious", "eager", "elegant", "fearless", "focused", "gentle", "happy",
    "hopeful", "jolly", "keen", "kind", "lively", "loving", "modest", "nimble", "patient", "quiet", "serene", "sharp",
    "silent", "steady", "swift", "tender", "vivid", "wise", "witty", "zealous",
)  # fmt: skip
_SURNAMES = (
    "allen", "babbage", "bartik", "boole", "cerf", "codd", "dijkstra", "engelbart", "floyd", "goldberg", "hamilton",
    "hamming", "holberton", "hopper", "kay", "keller", "knuth", "lamport", "liskov", "lovelace", "mccarthy", "meitner",
    "minsky", "perlman", "ritchie", "shannon", "thompson", "turing", "wilkes", "wing", "wirth", "zuse",
)  # fmt: skip


def new_service_name() -> str:
    """Return a random name such as `calm_hopper`."""
    return f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_SURNAMES)}"
