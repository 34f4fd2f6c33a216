"""The ledger sees each way in which a promise can be broken, and none where there is none."""

from typing import Any

import pytest
from power_ledger import Ledger, service_spec


def shown(name: str, revision: int, version: int = 10, service_id: str = "id1") -> dict[str, Any]:
    """Return a service as `GET /services` shows it."""
    return {"ID": service_id, "Version": {"Index": version}, "Spec": service_spec(name, revision)}


@pytest.fixture
def ledger() -> Ledger:
    """One service, created and updated once; its version 10 was seen."""
    ledger = Ledger()
    name = ledger.new_name("ada")
    ledger.begin(name)
    ledger.acknowledge(name, "id1")
    ledger.see_version(name, 10)
    ledger.begin(name)
    ledger.acknowledge(name)
    return ledger


NAME = "ada-0"


def test_what_was_acknowledged_is_there(ledger: Ledger) -> None:
    assert ledger.check([shown(NAME, 2, version=12)]) == []
    assert ledger.acknowledged == 2
    assert ledger.usable("ada") == [NAME]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([], "revision 2 was acknowledged, and the service is not there"),
        ([shown(NAME, 1, version=12)], "has revision 1; acknowledged was 2"),
        ([shown(NAME, 3, version=12)], "has revision 3; acknowledged was 2"),
        ([shown(NAME, 2, version=9)], "its version was 10 and is 9"),
        ([shown(NAME, 2, service_id="id2")], "its id was id1 and is id2"),
        ([shown(NAME, 2), shown("eve-7", 1)], "eve-7: nobody made this service"),
        ([shown(NAME, 2), shown(NAME, 2)], "a name is there twice"),
        ([{**shown(NAME, 2), "Spec": {**service_spec(NAME, 1), "Labels": {"revision": "2"}}}], "not what was written"),
    ],
)
def test_broken_promises_are_said(ledger: Ledger, listed: list[dict[str, Any]], words: str) -> None:
    (sentence,) = ledger.check(listed)
    assert words in sentence


@pytest.mark.parametrize("revision", [2, 3])
def test_a_write_without_an_answer_may_have_happened_or_not(ledger: Ledger, revision: int) -> None:
    ledger.begin(NAME)
    assert ledger.usable("ada") == []
    assert ledger.check([shown(NAME, revision, version=12)]) == []
    assert ledger.unanswered == 1
    assert ledger.begin(NAME) == 4, "a revision is never sent twice"


def test_a_change_needs_a_new_version(ledger: Ledger) -> None:
    ledger.see_version(NAME, 12)
    ledger.begin(NAME)
    assert "changed without a new version" in ledger.check([shown(NAME, 3, version=12)])[0]


def test_a_deletion_stays(ledger: Ledger) -> None:
    ledger.begin(NAME, deletes=True)
    ledger.acknowledge(NAME)
    assert ledger.check([]) == []
    assert "it is there again" in ledger.check([shown(NAME, 2, version=12)])[0]


def test_a_deletion_without_an_answer_that_happened_stays(ledger: Ledger) -> None:
    ledger.begin(NAME, deletes=True)
    assert ledger.check([]) == []
    assert "it is there again" in ledger.check([shown(NAME, 2, version=12)])[0]


def test_a_creation_without_an_answer_may_not_be_there() -> None:
    ledger = Ledger()
    ledger.begin(ledger.new_name("ada"))
    assert ledger.check([]) == []
    assert ledger.usable("ada") == []


def test_versions_that_go_back_are_said(ledger: Ledger) -> None:
    ledger.see_version(NAME, 9)
    assert ledger.broken == ["ada-0: its version went back from 10 to 9"]


def test_every_revision_differs_in_all_its_parts() -> None:
    first, second = service_spec(NAME, 1), service_spec(NAME, 2)
    assert first["Labels"] != second["Labels"]
    env = [spec["TaskTemplate"]["ContainerSpec"]["Env"] for spec in (first, second)]
    assert all(one != two for one, two in zip(*env, strict=True))
