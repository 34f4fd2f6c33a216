"""A container that wants more of its machine than the operator allows is refused before anything is made for it."""

from typing import Any

import msgspec
import pytest

from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.task_container import TaskContainers
from pyswarm_common.errors import PermissionDenied
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment


class Untouchable:
    """Whatever is asked of it is an error."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


async def test_refused_before_the_image_is_fetched() -> None:
    nothing: Any = Untouchable()
    containers = TaskContainers(nothing, nothing, nothing, lambda: NodeInfo(id="n1", hostname="host-a"), nothing)
    template = msgspec.convert({"ContainerSpec": {"Image": "x", "Labels": {"pyswarm.privileged": "true"}}}, TaskTemplate)
    assignment = TaskAssignment(task_id="t", task_spec_id="s", desired_state=TaskState.RUNNING)
    with pytest.raises(PermissionDenied, match=r"node host-a does not allow privileged containers: .* with --allow-privileged"):
        await containers.make(assignment, template)
