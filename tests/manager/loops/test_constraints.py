"""Placement constraints: what can be written, what it means, and what a mistake is told."""

import pytest
from loop_world import node

from pyswarm_common.errors import InvalidArgument
from pyswarm_manager.scheduler.constraints import parse_constraints

NODE = node("n1", host="Alpha", labels={"zone": "North", "a.b/c": "x"}, role="manager", arch="x86_64", address="10.1.2.3")
NODE_6 = node("n2", address="[2001:db8::5]:2377")
NODE_WITHOUT_ADDRESS = node("n3")


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
        ("node.ip==10.1.2.3", True),
        ("node.ip!=10.1.2.3", False),
        ("node.ip==10.1.2.30", False),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip==10.1.2.3/16", True),
        ("node.ip!=10.1.0.0/16", False),
        ("node.ip==::ffff:10.1.2.3", True),
        ("node.ip==2001:db8::/32", False),
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
    ("expression", "is_met"),
    [
        ("node.ip==2001:DB8::5", True),
        ("node.ip==2001:db8:0::5", True),
        ("node.ip==2001:db8::/32", True),
        ("node.ip!=2001:db8::/32", False),
        ("node.ip==10.0.0.0/8", False),
        ("node.ip!=10.0.0.0/8", True),
    ],
)
def test_addresses_of_ipv6(expression: str, is_met: bool) -> None:
    (constraint,) = parse_constraints([expression])
    assert constraint.matches(NODE_6) is is_met
    assert constraint.matches(NODE_WITHOUT_ADDRESS) is not constraint.is_equal


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
        ("node.ip==alpha", "'alpha' is neither an IP address nor a network"),
        ("node.ip==10.1.0.0/33", "'10.1.0.0/33' is neither an IP address nor a network"),
    ],
)
def test_a_mistake_is_named(expression: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_constraints(["node.id==n1", expression])
    assert complaint in caught.value.message
    assert expression in caught.value.message
