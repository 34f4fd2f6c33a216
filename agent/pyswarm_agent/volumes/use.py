"""Which containers stand on which volumes: it follows from the containers' configurations, so nothing has to be counted."""

from pyswarm_agent.runtime import Runtime


def volume_users(runtime: Runtime) -> dict[str, list[str]]:
    """Return the ids of the containers, running or not, that mount each volume, by its name."""
    users: dict[str, list[str]] = {}
    for record in runtime.list():
        for name in dict.fromkeys(mount.volume for mount in record.config.mounts if mount.volume):
            users.setdefault(name, []).append(record.config.id)
    return users
