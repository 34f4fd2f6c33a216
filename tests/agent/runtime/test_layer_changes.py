"""What a writable layer says that its container has changed; made by overlayfs itself in tests/kernel/test_docker_diff.py."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyswarm_agent.runtime import layer_changes as module
from pyswarm_agent.runtime.layer_changes import layer_changes, layer_paths
from pyswarm_common.errors import ResourceExhausted

LETTERS = "CAD"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a layer: `name` a file, `name/` a folder, `name!` an opaque one, `-name` a whiteout, `name>target` a link."""

    def layer(name: str, *entries: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        for entry in entries:
            path = root / entry.strip("-!").partition(">")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.startswith("-"):
                os.mknod(root / entry[1:], 0o600 | 0o020000, 0)
            elif entry.endswith("!"):
                path.mkdir()
                os.setxattr(path, "user.overlay.opaque", b"y")
            elif ">" in entry:
                path.symlink_to(entry.partition(">")[2])
            elif entry.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_text(entry)
        for folder, names, _ in os.walk(root):  # as overlayfs keeps the times of folders that it copies up
            for each in names:
                os.utime(Path(folder, each), (1, 1))
        return root

    return layer


def shown(upper: Path, *lowers: Path) -> list[str]:
    return [f"{LETTERS[change.kind]} {change.path}" for change in layer_changes(upper, lowers)]


def test_added_changed_and_deleted(make: Make) -> None:
    image = make("image", "etc/passwd", "etc/group", "usr/bin/x")
    upper = make("upper", "etc/passwd", "-etc/group", "etc/new", "opt/tool/x")
    assert shown(upper, image) == [
        "C /etc",
        "D /etc/group",
        "A /etc/new",
        "C /etc/passwd",
        "A /opt",
        "A /opt/tool",
        "A /opt/tool/x",
    ]


def test_folders_above_changes_of_files_are_not_told(make: Make) -> None:
    assert shown(make("upper", "a/b/c"), make("image", "a/b/c")) == ["C /a/b/c"]


def test_a_whiteout_of_the_image_hides_what_lies_below(make: Make) -> None:
    below, top = make("below", "a/x", "b/y"), make("top", "-a", "b!")
    assert shown(make("upper", "a/x", "b/y"), top, below) == ["A /a", "A /a/x", "C /b", "A /b/y"]


def test_a_folder_that_was_made_anew(make: Make) -> None:
    image = make("image", "a/gone", "a/again", "a/sub/x")
    assert shown(make("upper", "a!", "a/again", "a/new", "a/sub/x"), image) == [
        "C /a",
        "C /a/again",
        "D /a/gone",
        "A /a/new",
        "C /a/sub",
        "A /a/sub/x",
    ]


def test_another_kind_in_its_place(make: Make) -> None:
    assert shown(make("upper", "a/x", "b>target"), make("image", "a", "b/y")) == ["C /a", "A /a/x", "C /b"]


def test_places_for_mounts_are_left_out(make: Make) -> None:
    image, upper = make("image", "bin/x"), make("upper", "dev/", "proc/", "etc/hosts", "etc/resolv.conf", "srv/data/")
    assert [change.path for change in layer_changes(upper, [image], ["/srv/data"])] == []
    (upper / "etc/mine").write_text("x")
    assert [change.path for change in layer_changes(upper, [image], ["/srv/data"])] == ["/etc", "/etc/mine"]


def test_links_lead_nowhere(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc/secret").write_text("x")
    image, upper = make("image", f"lib>{outside}"), make("upper", "lib/etc/secret", f"link>{outside}")
    assert shown(upper, image) == ["C /lib", "A /lib/etc", "A /lib/etc/secret", "A /link"]


def test_names_that_are_no_text(make: Make) -> None:
    upper = make("upper")
    (Path(os.fsdecode(os.fsencode(upper) + b"/\xff"))).write_text("x")
    assert [change.path for change in layer_changes(upper, [])] == ["/\ufffd"]


def test_deep_folders_end_somewhere(make: Make) -> None:
    assert len(layer_changes(make("upper", "/".join("x" * 300).lstrip("/")), [])) == module.DEEPEST + 1


def test_too_many(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CHANGES", 3)
    with pytest.raises(ResourceExhausted, match="has changed more than 3 files"):
        layer_changes(make("upper", *"abcd"), [])


def test_never_started(tmp_path: Path) -> None:
    assert layer_changes(tmp_path / "nosuch", []) == []
    assert layer_paths(tmp_path / "nosuch") == []


def test_layers_are_in_their_order(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / str(number)).symlink_to(f"/layers/{number}")
    assert layer_paths(tmp_path) == [Path(f"/layers/{number}") for number in range(12)]
