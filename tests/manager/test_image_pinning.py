"""When a manager asks a registry for a digest, for how long, and whom it does not ask again."""

import asyncio

import pytest

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotFound, PyswarmError, Unavailable
from pyswarm_manager.api import image_pinning
from pyswarm_manager.api.image_pinning import ImagePinning, digest_warning, image_of, registry_of
from pyswarm_manager.api.service_spec import ServiceDraft, draft_service

DIGEST = "sha256:" + "a" * 64


def draft(image: str) -> ServiceDraft:
    return draft_service({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": image, "Unknown": 1}}})


class Registry:
    """Answers, or fails, as told; remembers what it was asked."""

    def __init__(self, failure: PyswarmError | None = None) -> None:
        self.failure = failure
        self.asked: list[tuple[str, str]] = []

    async def pin(self, image: str, registry_auth: str) -> str:
        self.asked.append((image, registry_auth))
        if self.failure is not None:
            raise self.failure
        return f"{image}@{DIGEST}"


async def test_the_template_and_its_typed_view_have_the_digest() -> None:
    registry = Registry()
    pinned, warnings = await ImagePinning(registry.pin, ManualClock()).pinned(draft("nginx:1"), "auth")
    assert (image_of(pinned), warnings, registry.asked) == (f"nginx:1@{DIGEST}", [], [("nginx:1", "auth")])
    assert pinned.template["ContainerSpec"] == {"Image": f"nginx:1@{DIGEST}", "Unknown": 1, "Isolation": "default"}


@pytest.mark.parametrize(
    ("posted", "current", "stored", "is_asked"),
    [
        (f"nginx:1@{DIGEST}", "", f"nginx:1@{DIGEST}", False),
        ("nginx:1", f"nginx:1@{DIGEST}", f"nginx:1@{DIGEST}", False),
        ("nginx", f"nginx:latest@{DIGEST}", f"nginx:latest@{DIGEST}", False),
        ("host:5000/nginx", f"host:5000/nginx:latest@{DIGEST}", f"host:5000/nginx:latest@{DIGEST}", False),
        ("nginx:2", f"nginx:1@{DIGEST}", f"nginx:2@{DIGEST}", True),
        ("nginx:1", "nginx:1", f"nginx:1@{DIGEST}", True),
        ("nginx", f"nginx:1@{DIGEST}", f"nginx@{DIGEST}", True),
        ("", "", "", False),
    ],
)
async def test_who_is_asked(posted: str, current: str, stored: str, is_asked: bool) -> None:
    registry = Registry()
    pinned, warnings = await ImagePinning(registry.pin, ManualClock()).pinned(draft(posted), "", current)
    assert (image_of(pinned), warnings, bool(registry.asked)) == (stored, [], is_asked)


async def test_a_silent_registry_is_left_alone_for_a_while_and_others_are_not() -> None:
    clock, registry = ManualClock(), Registry(Unavailable("connection refused"))
    pinning = ImagePinning(registry.pin, clock)
    for _ in range(3):
        pinned, warnings = await pinning.pinned(draft("host:5000/web:1"), "")
        assert (image_of(pinned), warnings) == ("host:5000/web:1", [digest_warning("host:5000/web:1")])
    await pinning.pinned(draft("nginx:1"), "")
    assert [image for image, _ in registry.asked] == ["host:5000/web:1", "nginx:1"]
    registry.failure = None
    await clock.advance(image_pinning.SILENT_REGISTRY_PAUSE_S + 1)
    pinned, _ = await pinning.pinned(draft("host:5000/web:1"), "")
    assert image_of(pinned) == f"host:5000/web:1@{DIGEST}"


async def test_an_image_that_is_not_there_is_asked_for_again() -> None:
    registry = Registry(NotFound("manifest unknown"))
    pinning = ImagePinning(registry.pin, ManualClock())
    for _ in range(2):
        assert (await pinning.pinned(draft("nginx:9"), ""))[1] == [digest_warning("nginx:9")]
    assert len(registry.asked) == 2


async def test_a_registry_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pinning, "PINNING_TIMEOUT_S", 0.01)

    async def never(image: str, registry_auth: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    pinning = ImagePinning(never, ManualClock())
    assert (await pinning.pinned(draft("nginx:1"), ""))[1] == [digest_warning("nginx:1")]
    monkeypatch.setattr(image_pinning, "PINNING_TIMEOUT_S", 100.0)
    assert (await pinning.pinned(draft("nginx:1"), ""))[1] == [digest_warning("nginx:1")]  # not asked


@pytest.mark.parametrize(
    ("image", "registry"),
    [("nginx", "docker.io"), ("a/b:1", "docker.io"), ("localhost/x", "localhost"), ("h:1/x", "h:1"), ("quay.io/a/b", "quay.io")],
)
def test_whose_image_it_is(image: str, registry: str) -> None:
    assert registry_of(image) == registry
