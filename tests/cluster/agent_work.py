"""Everything at once that an agent can have to do, on one worker: services and local containers with all that they can have."""

import base64
import secrets
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

from lab_cluster import Cluster, wait_until, wait_until_gone

from pyswarm_common.errors import PyswarmError

SECOND_NS = 1_000_000_000
WRITES_A_LOG = (
    "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i of a log that is to be rotated now and then; sleep 0.05; done"
)
HEALTHY = 'test "$(cat /run/secrets/token)" && grep -q "^task " /etc/shown'


class AgentWork:
    """Services and local containers on one host, and ways to change them. Once made, the host has what one task leaves for good."""

    def __init__(self, cluster: Cluster, host: str) -> None:
        self.cluster = cluster
        self.host = host
        self.secret = secrets.token_hex(16)
        """Nowhere on a disk may this be found."""
        encoded = _base64(self.secret)
        template = _base64('task {{.Task.Name}} knows {{secret "token"}}\n')
        self._secret_id = cluster.api("/secrets/create", "POST", {"Name": "token", "Data": encoded})["ID"]
        config = {"Name": "shown", "Data": template, "Templating": {"Name": "golang"}}
        self._config_id = cluster.api("/configs/create", "POST", config)["ID"]
        self._network_id = next(n["Id"] for n in cluster.api("/networks") if n["Name"] == "app")
        self.create("first", 1)
        self.run_local("first", "true")
        self.wait_settled({"first": 1})
        self.remove_everything(["first"])

    def spec(self, name: str, replicas: int, *, generation: int = 0, **container: Any) -> dict[str, Any]:
        """Return a service whose tasks have everything."""
        return {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self.cluster.image("busybox"),
                    "Command": ["sh", "-c", WRITES_A_LOG],
                    "Env": [f"GENERATION={generation}"],
                    "Mounts": [
                        {"Type": "volume", "Source": f"{name}-data", "Target": "/var"},
                        {"Type": "volume", "Target": "/usr/bin"},
                        {"Type": "tmpfs", "Target": "/tmp"},
                    ],
                    "Secrets": [{"SecretID": self._secret_id, "SecretName": "token", "File": _file("token")}],
                    "Configs": [{"ConfigID": self._config_id, "ConfigName": "shown", "File": _file("/etc/shown")}],
                    "Healthcheck": {"Test": ["CMD-SHELL", HEALTHY], "Interval": SECOND_NS, "StartInterval": SECOND_NS // 5,
                                    "StartPeriod": 10 * SECOND_NS, "Timeout": 10 * SECOND_NS, "Retries": 3},
                    "StopGracePeriod": 2 * SECOND_NS,
                    **container,
                },
                "LogDriver": {"Name": "json-file", "Options": {"max-size": "2k", "max-file": "3"}},
                "Networks": [{"Target": self._network_id}],
                "Placement": {"Constraints": [f"node.hostname=={self.host}"]},
                "RestartPolicy": {"Condition": "any", "Delay": SECOND_NS // 5},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {"Parallelism": 2, "FailureAction": "continue"},
        }  # fmt: skip

    def create(self, name: str, replicas: int, **container: Any) -> None:
        """Create such a service."""
        self.cluster.api("/services/create", "POST", self.spec(name, replicas, **container))

    def update(self, name: str, replicas: int, generation: int) -> None:
        """Change how many tasks there are to be, and, with another generation, replace them all."""
        version = self.cluster.api(f"/services/{name}")["Version"]["Index"]
        spec = self.spec(name, replicas, generation=generation)
        self.cluster.api(f"/services/{name}/update?version={version}", "POST", spec)

    def run_local(self, name: str, command: str, policy: str = "", *, removes_itself: bool = False) -> None:
        """Make and start a container of this host alone, with an anonymous volume."""
        body = {
            "Image": self.cluster.image("busybox"),
            "Cmd": ["sh", "-c", command],
            "Volumes": {"/usr/bin": {}},
            "HostConfig": {
                "RestartPolicy": {"Name": policy},
                "AutoRemove": removes_itself,
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "2k", "max-file": "3"}},
            },
        }
        container_id = self.cluster.api(f"/containers/create?name={name}", "POST", body, host=self.host)["Id"]
        self.cluster.api(f"/containers/{container_id}/start", "POST", host=self.host)

    def remove_local(self, name: str) -> None:
        """Remove a container of this host with its anonymous volumes, whether it runs or not."""
        status, answer = self.cluster.request(self.host, "DELETE", f"/containers/{name}?force=true&v=true")
        if status not in (204, 404):
            raise RuntimeError(f"removing {name}: {status} {answer}")

    def containers(self) -> list[dict[str, Any]]:
        """Return what the host's API lists, with those that do not run."""
        found: list[dict[str, Any]] = self.cluster.api("/containers/json?all=true", host=self.host)
        return found

    def wait_settled(self, replicas: dict[str, int], timeout_s: float = 60.0) -> None:
        """Wait until each slot of the services has one running task, whose container is the one that runs here."""
        wait_until("the services are as they are wanted", lambda: not self._unsettled(replicas) or None, timeout_s)

    def why_unsettled(self, replicas: dict[str, int]) -> list[str]:
        """Return what is not yet as it is wanted."""
        return self._unsettled(replicas)

    def _unsettled(self, replicas: dict[str, int]) -> list[str]:
        problems = []
        wanted_here = set()
        for name, count in replicas.items():
            tasks = self.cluster.tasks(name)
            wanted = [t for t in tasks if t["DesiredState"] in ("running", "ready")]
            slots = {
                t["Slot"] for t in wanted if t["Status"]["State"] == "running"
            }  # not always 1 to `count`: any may be scaled away
            if not len(slots) == len(wanted) == count:
                problems.append(f"{name}: {[(t['Slot'], t['Status']['State'], t['DesiredState']) for t in tasks]}")
            wanted_here |= {t["Status"]["ContainerStatus"]["ContainerID"] for t in wanted if t["Status"]["State"] == "running"}
        running = {c["Id"] for c in self.containers() if c["State"] == "running" and "com.docker.swarm.task.id" in c["Labels"]}
        if running != wanted_here:
            problems.append(f"run, and should not: {running - wanted_here}; should, and do not: {wanted_here - running}")
        return problems

    def remove_everything(self, local_names: list[str]) -> None:
        """Remove all services, local containers and named volumes, and wait until no container is left."""
        for service in self.cluster.api("/services"):
            self.cluster.api(f"/services/{service['ID']}", "DELETE")
        for name in local_names:
            self.remove_local(name)
        wait_until("all tasks are gone", lambda: not self.cluster.api("/tasks"), 60.0)
        wait_until_gone("containers", self.containers)
        for volume in self.cluster.api("/volumes", host=self.host)["Volumes"]:
            if volume["Name"].endswith("-data"):
                self.cluster.api(f"/volumes/{volume['Name']}", "DELETE", host=self.host)


def attempt(work: Callable[[], object]) -> str:
    """Do something that may be refused; return why it was, "" when it was done."""
    try:
        work()
    except (OSError, RuntimeError, HTTPException, PyswarmError) as error:
        return str(error)
    return ""


def _file(name: str) -> dict[str, Any]:
    return {"Name": name, "UID": "0", "GID": "0", "Mode": 0o400}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
