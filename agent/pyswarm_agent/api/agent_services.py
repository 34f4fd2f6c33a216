"""What the agent's routes stand on, and how a route gets it."""

from dataclasses import dataclass, field

from starlette.requests import Request

from pyswarm_agent.events import EventBus
from pyswarm_agent.execs import ExecStore
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.image_use import content_in_use
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.runtime.access.interface import Access
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.volumes import VolumeStore
from pyswarm_common.clock import Clock, SystemClock
from pyswarm_netplugin.audit.watch import NetworkWatch


@dataclass(frozen=True)
class AgentServices:
    """The parts of the agent that the API uses."""

    images: ImageStore
    containers: Runtime
    volumes: VolumeStore
    health: HealthMonitors
    access: Access
    local: LocalContainers
    events: EventBus
    clock: Clock = field(default_factory=SystemClock)
    network_watch: NetworkWatch = field(default_factory=lambda: NetworkWatch(SystemClock()))
    execs: ExecStore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "execs", ExecStore(self.access, self.containers, self.clock))

    def content_in_use(self) -> set[str]:
        """Return the ids of the images and of the layers that containers use."""
        return content_in_use(self.images, self.containers)


def agent_of(request: Request) -> AgentServices:
    """Return this node's agent."""
    agent: AgentServices = request.app.state.agent
    return agent
