"""Whether the host shares what a container wants shared, as its table of mounts says."""

from pathlib import Path

import pytest

from pyswarm_agent.runtime.propagation import check_propagation
from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.errors import InvalidArgument

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:30 / /srv/private rw - tmpfs t rw
41 22 0:31 / /srv/größe\\040two rw shared:7 master:3 - tmpfs t rw
42 41 0:32 / /srv/größe\\040two/slave rw master:7 - tmpfs t rw
43 22 0:33 / /srv/covered rw - tmpfs t rw
44 43 0:34 / /srv/covered rw shared:9 - tmpfs t rw
"""


def bind(source: str, propagation: str) -> MountConfig:
    return MountConfig(type="bind", source=source, target="/x", propagation=propagation)


@pytest.mark.parametrize(
    ("source", "propagation", "refusal"),
    [
        ("/srv/none", "rshared", ""),
        ("/srv/privateer", "shared", ""),
        ("/srv/private/x", "rshared", "mounted on /srv/private but it is not a shared mount"),
        ("/srv/private/x", "rslave", "mounted on /srv/private but it is not a shared or slave mount"),
        ("/srv/private/x", "rprivate", ""),
        ("/srv/größe two/x", "rshared", ""),
        ("/srv/größe two/slave", "rshared", "mounted on /srv/größe two/slave but it is not a shared mount"),
        ("/srv/größe two/slave", "rslave", ""),
        ("/srv/covered", "shared", ""),
    ],
)
def test_what_the_host_shares(source: str, propagation: str, refusal: str) -> None:
    if not refusal:
        check_propagation([bind(source, propagation)], lambda: TABLE)
        return
    with pytest.raises(InvalidArgument, match=refusal):
        check_propagation([bind(source, propagation)], lambda: TABLE)


def test_a_links_target_counts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/private")
    with pytest.raises(InvalidArgument, match="mounted on /srv/private but"):
        check_propagation([bind(f"{tmp_path}/link/x", "shared")], lambda: TABLE)
