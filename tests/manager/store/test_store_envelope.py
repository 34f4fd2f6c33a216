"""Values at rest: sealed, bound to their key, and openable by every key of the set."""

import pytest

from pyswarm_manager.store.envelope import OVERHEAD_BYTES, DataKeys, EnvelopeError


def test_what_was_sealed_is_opened() -> None:
    keys = DataKeys.generate()
    envelope = keys.seal("pyswarm/a", b"secret")
    assert b"secret" not in envelope
    assert len(envelope) == len(b"secret") + OVERHEAD_BYTES
    assert keys.open("pyswarm/a", envelope) == b"secret"


def test_an_envelope_is_bound_to_its_key() -> None:
    keys = DataKeys.generate()
    with pytest.raises(EnvelopeError, match="not sealed by this cluster for this key"):
        keys.open("pyswarm/b", keys.seal("pyswarm/a", b"secret"))


@pytest.mark.parametrize("position", [5, 16, 17, -1])
def test_a_changed_envelope_is_refused(position: int) -> None:
    keys = DataKeys.generate()
    envelope = bytearray(keys.seal("a", b"secret"))
    envelope[position] ^= 1
    with pytest.raises(EnvelopeError, match="not sealed"):
        keys.open("a", bytes(envelope))


@pytest.mark.parametrize("envelope", [b"", b"\x01", b"\x02" + bytes(60)])
def test_an_unknown_format_is_refused(envelope: bytes) -> None:
    with pytest.raises(EnvelopeError, match="unknown format"):
        DataKeys.generate().open("a", envelope)


def test_a_new_active_key_seals_and_old_values_still_open() -> None:
    old = DataKeys.generate()
    new = old.with_new_active_key()
    assert new.open("a", old.seal("a", b"1")) == b"1"
    assert new.open("a", new.seal("a", b"2")) == b"2"
    with pytest.raises(EnvelopeError, match="needs data key 2"):
        old.open("a", new.seal("a", b"2"))


def test_nonces_never_repeat() -> None:
    keys = DataKeys.generate()
    assert len({keys.seal("a", b"same") for _ in range(1000)}) == 1000


def test_the_active_key_must_be_there() -> None:
    with pytest.raises(ValueError, match="active data key 2"):
        DataKeys({1: bytes(32)}, active_id=2)
