"""`pyswarm info` and `pyswarm version`."""

from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineUnreachable
from pyswarm_cli.output import inspect_format_option, print_object
from pyswarm_cli.pretty import print_members
from pyswarm_cli.units import format_binary_bytes, format_duration_ns

pass_engine = click.make_pass_decorator(EngineClient)


@click.command()
@inspect_format_option
@pass_engine
def info(engine: EngineClient, output_format: str) -> None:
    """Show this node and its place in the cluster.

    Example: pyswarm info --format '{{.Swarm.LocalNodeState}}'
    """
    found = engine.get("info")
    if output_format:
        print_object(found, output_format)
    else:
        print_members(describe_info(found))
    for warning in found.get("Warnings") or ():
        click.echo(warning, err=True)


@click.command()
@inspect_format_option
@pass_engine
def version(engine: EngineClient, output_format: str) -> None:
    """Show the versions of this command and of the daemon.

    Example: pyswarm version
    """
    import importlib.metadata

    client = {"Version": importlib.metadata.version("pyswarm-cluster")}
    try:
        server = engine.get("version")
    except EngineUnreachable:
        print_members({"Client": client})
        raise
    if output_format:
        print_object({"Client": client, "Server": server}, output_format)
        return
    versions = {component["Name"]: component["Version"] for component in server["Components"]}
    shown = {
        "Version": versions.get("pyswarm", server["Version"]),
        "API version": f"{server['ApiVersion']} (minimum version {server['MinAPIVersion']})",
        "Engine version": f"{server['Version']} (whose API this is)",
        "OS/Arch": f"{server['Os']}/{server['Arch']}",
        "Kernel": server["KernelVersion"],
    }
    print_members({"Client": client, "Server": shown})


def describe_info(found: dict[str, Any]) -> dict[str, Any]:
    """Return what `info` says."""
    swarm = found["Swarm"]
    described: dict[str, Any] = {
        "Name": found["Name"],
        "Containers": {"Running": found["ContainersRunning"], "Stopped": found["ContainersStopped"]},
        "Images": str(found["Images"]),
        "Swarm": _describe_swarm(swarm),
        "Operating System": found["OperatingSystem"],
        "Kernel Version": found["KernelVersion"],
        "Architecture": found["Architecture"],
        "CPUs": str(found["NCPU"]),
        "Total Memory": format_binary_bytes(found["MemTotal"]),
        "Cgroup Version": found["CgroupVersion"],
        "Runtime": found["DefaultRuntime"],
        "Data Directory": found["DockerRootDir"],
        "Engine Version": found["ServerVersion"],
    }
    return described


def _describe_swarm(swarm: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"State": swarm["LocalNodeState"], "Error": swarm.get("Error")}
    if not swarm["NodeID"]:
        return described
    described |= {"NodeID": swarm["NodeID"], "Is Manager": str(swarm["ControlAvailable"]).lower()}
    cluster = swarm.get("Cluster")
    if cluster:
        spec = cluster["Spec"]
        described |= {
            "ClusterID": cluster["ID"],
            "Managers": str(swarm["Managers"]),
            "Nodes": str(swarm["Nodes"]),
            "Default Address Pool": ", ".join(cluster["DefaultAddrPool"] or ["10.0.0.0/8"]),
            "Subnet Size": cluster["SubnetSize"],
            "Data Path Port": cluster["DataPathPort"],
            "Task History Retention Limit": spec["Orchestration"].get("TaskHistoryRetentionLimit"),
            "Heartbeat Period": format_duration_ns(spec["Dispatcher"].get("HeartbeatPeriod", 0)),
        }
    described["Node Address"] = swarm["NodeAddr"]
    if encryption := swarm.get("EncryptedOverlays"):
        possible = encryption in ("kernel", "userspace")
        described["Encrypted Overlays"] = f"by {encryption} WireGuard" if possible else f"not possible: {encryption}"
    described["Manager Addresses"] = [manager["Addr"] for manager in swarm.get("RemoteManagers") or ()]
    return described
