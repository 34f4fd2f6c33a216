"""Placement constraints: what can be written, what it means, and what a mistake is told."""

import pytest
from loop_world import node

from pyswarm_common.errors import InvalidArgument
from pyswarm_manager.scheduler.constraints import parse_constraints

NODE = node("n1", host="Alpha", labels={"zone": "North", "a.b/c": "x"}, role="manager", arch="x86_64")


@pytest.mark.parametrize(
    ("expression", "is_met"),
    [
        ("node.id==n1", True),
        ("node.id == N1", True),
        ("node.id!=n1", False),
        ("node.hostname==alpha", True),
        ("NODE.Role==manager", True),
        ("node.role!=worker", True),
        ("node.labels.zone==north", True),
        ("node.labels.Zone==north", False),
        ("node.labels.zone!=south", True),
        ("node.labels.disk==ssd", False),
        ("node.labels.disk!=ssd", True),
        ("node.labels.a.b/c==x", True),
        ("engine.labels.zone==north", False),
        ("node.platform.os==Linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch!=arm64", True),
    ],
)
def test_what_a_constraint_means(expression: str, is_met: bool) -> None:
    (constraint,) = parse_constraints([expression])
    assert constraint.matches(NODE) is is_met


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("node.id=n1", "expected one operator from ==, !="),
        ("node.id", "expected one operator from ==, !="),
        ("node.id==", "value '' is invalid"),
        ("==n1", "key '' is invalid"),
        ("node.id==a==b", "value 'a==b' is invalid"),
        ("node.color==red", "there is no key 'node.color'"),
        ("node.labels.==x", "there is no key 'node.labels.'"),
    ],
)
def test_a_mistake_is_named(expression: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_constraints(["node.id==n1", expression])
    assert complaint in caught.value.message
    assert expression in caught.value.message
