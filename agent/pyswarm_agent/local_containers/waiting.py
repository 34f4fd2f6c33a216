"""`POST /containers/{id}/wait`: returns how a container ended, once that is so."""

from typing import NamedTuple

from pyswarm_agent.events import EventSubscription
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import InvalidArgument

CONDITIONS = ("not-running", "next-exit", "removed")


class Ended(NamedTuple):
    """How a container ended, or why it could not be started."""

    exit_code: int
    error: str = ""


def check_condition(condition: str) -> str:
    """Return the condition, `not-running` for "". Raises InvalidArgument."""
    if condition and condition not in CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    return condition or CONDITIONS[0]


async def wait_ended(local: LocalContainers, record: ContainerRecord, condition: str, events: EventSubscription) -> Ended:
    """Return as soon as the condition holds. `events` must listen since before `record` was looked up."""
    container_id = record.config.id
    held = local.get(container_id)
    ended = _end_of(record)
    with events:
        if condition == "not-running" and not record.is_live and not (held is not None and held.is_restarting):
            return ended
        async for event in events:
            if (event.type, event.id) != ("container", container_id):
                continue
            if event.action == "die":
                ended = Ended(int(event.attributes["exitCode"]))
                if condition == "next-exit":
                    return ended
                if held is not None:
                    await held.settled.wait()
                if condition == "not-running" and not (held is not None and held.is_restarting):
                    return ended
            elif event.action == "destroy":
                never_ran = held is not None and held.container.start_error
                return Ended(held.container.start_exit_code, held.container.start_error) if held and never_ran else ended
    return ended


def _end_of(record: ContainerRecord) -> Ended:
    return Ended(record.exit.exit_code, record.exit.error) if record.exit is not None else Ended(0)
