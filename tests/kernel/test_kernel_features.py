"""What the data plane needs of the kernel: tried on the real one, and told in words when it is missing."""

import errno
from collections.abc import Iterable, Sequence

import pytest

from pyswarm_common.errors import Unavailable
from pyswarm_netplugin.kernel import features
from pyswarm_netplugin.kernel.features import FEATURES, Feature, explained, find_missing, kernel_problems, missing_features
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.kernel.observe import read_links

pytestmark = pytest.mark.kernel


def nothing() -> None:
    """Succeed."""


def feature(name: str, *modules: str) -> Feature:
    """Return one that is never tried."""
    return Feature(name=name, modules=modules, trial=nothing)


def test_this_kernel_has_everything_and_trying_leaves_nothing_behind() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        before = set(read_links(netlink))
        assert missing_features() == ()
        assert set(read_links(netlink)) == before
    assert kernel_problems() == []


def test_what_fails_is_found_by_trying() -> None:
    def fail() -> None:
        raise OSError(errno.EOPNOTSUPP, "?")

    def hinder() -> None:
        raise OSError(errno.ENOBUFS, "?")

    lacking = Feature(name="x", modules=("no_such_module",), trial=fail)
    busy = Feature(name="y", modules=("no_such_module",), trial=hinder)
    assert features.failing((lacking, busy, FEATURES[0])) == [lacking]


@pytest.mark.parametrize("is_healed", [True, False])
def test_modules_are_loaded_once_for_what_fails(*, is_healed: bool) -> None:
    sound, broken, other = feature("a", "m1"), feature("b", "m2", "m3"), feature("c", "m3")
    loaded: list[str] = []

    def attempt(tried: Sequence[Feature]) -> list[Feature]:
        return [each for each in tried if each is not sound and not (loaded and is_healed)]

    def load(names: Iterable[str]) -> None:
        loaded.extend(names)

    assert find_missing((sound, broken, other), attempt, load) == (() if is_healed else (broken, other))
    assert loaded == ["m2", "m3"]


def test_errors_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "missing_features", lambda: (feature("virtual IPs", "nft_numgen"),))
    absent, other = OSError(errno.ENOENT, "No such file or directory"), OSError(errno.EPERM, "Operation not permitted")
    told = explained(absent, "sandbox t1: load rules")
    assert isinstance(told, Unavailable)
    assert told.message.startswith(
        "sandbox t1: load rules: No such file or directory; the kernel lacks what virtual IPs need: load"
    )
    assert "nft_numgen" in told.message
    assert explained(other, "sandbox t1: load rules") is other
