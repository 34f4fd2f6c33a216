"""The unlock key as people copy it."""

import re

import pytest

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.unlock_key import UNLOCK_KEY_BYTES, new_unlock_key, parse_unlock_key


def test_a_new_key_looks_as_docker_prints_it_and_is_never_the_same() -> None:
    keys = {new_unlock_key() for _ in range(20)}
    assert len(keys) == 20
    assert all(re.fullmatch(r"SWMKEY-1-[A-Za-z0-9+/]{43}", key) for key in keys)
    assert {len(parse_unlock_key(key)) for key in keys} == {UNLOCK_KEY_BYTES}


def test_a_key_survives_copying_with_spaces_around() -> None:
    key = new_unlock_key()
    assert parse_unlock_key(f"  {key}\n") == parse_unlock_key(key)


def test_a_key_of_docker_is_understood() -> None:
    assert parse_unlock_key("SWMKEY-1-" + "A" * 43) == bytes(32)


@pytest.mark.parametrize("text", ["", "SWMKEY-1-", "SWMKEY-1-AAAA", "SWMKEY-2-" + "A" * 43, "A" * 43, "SWMKEY-1-" + "!" * 43])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid key string"):
        parse_unlock_key(text)
