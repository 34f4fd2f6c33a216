"""Generic resources: how they are declared, and what a container is told."""

import pytest

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.generic_resources import environment_of, parse_generic_resources


def test_names_and_numbers_become_what_containers_are_told() -> None:
    resources = parse_generic_resources(["gpu=uuid1,gpu=uuid2", "NVIDIA-GPU=UUID3", "ssd=4", "none=0"])
    assert environment_of(resources) == [
        "DOCKER_RESOURCE_GPU=uuid1,uuid2",
        "DOCKER_RESOURCE_NVIDIA-GPU=UUID3",
        "DOCKER_RESOURCE_SSD=4",
    ]
    assert environment_of(()) == []


@pytest.mark.parametrize(
    ("declarations", "complaint"),
    [
        (["gpu"], "expected KIND=NAME or KIND=NUMBER"),
        (["=a"], "expected KIND=NAME or KIND=NUMBER"),
        (["gpu="], "expected KIND=NAME or KIND=NUMBER"),
        (["gpu=a b"], "expected KIND=NAME or KIND=NUMBER"),
        (["gpu=a", "gpu=a"], "declared already"),
        (["gpu=a", "gpu=2"], "declared already"),
        (["gpu=2", "gpu=a"], "declared already"),
        (["gpu=2,gpu=2"], "declared already"),
    ],
)
def test_a_mistake_is_named(declarations: list[str], complaint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_generic_resources(declarations)
    assert complaint in caught.value.message
