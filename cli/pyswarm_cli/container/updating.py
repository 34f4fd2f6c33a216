"""`pyswarm update`: limits and restart policy of containers of this node; those that run change at once."""

from typing import Any

import click

from pyswarm_cli.container.creation import filled, memory_and_swap, restart_policy
from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import for_each, warn_of, with_options
from pyswarm_cli.units import parse_bytes, parse_nano_cpus

pass_engine = click.make_pass_decorator(EngineClient)
_bytes, _cpus = parsed(parse_bytes), parsed(parse_nano_cpus)

_limits = with_options(
    click.option("--memory", "-m", callback=_bytes, metavar="BYTES", help="At most so much memory, such as 256m."),
    click.option("--memory-swap", metavar="BYTES", help="Memory and swap together; -1: any."),
    click.option("--memory-reservation", callback=_bytes, metavar="BYTES", help="What it keeps when memory gets short."),
    click.option("--cpus", callback=_cpus, metavar="N", help="At most so many CPUs, such as 0.5."),
    click.option("--cpu-shares", "-c", type=int, metavar="N", help="Its share when CPUs are short (1024: the usual)."),
    click.option("--cpu-quota", type=int, metavar="µs", help="CPU time in each period."),
    click.option("--cpu-period", type=int, metavar="µs", help="Such a period."),
    click.option("--cpuset-cpus", default="", metavar="LIST", help="The CPUs that it may use, such as 0-2,5."),
    click.option("--cpuset-mems", default="", metavar="LIST", help="The memory nodes that it may use."),
    click.option("--blkio-weight", type=int, metavar="N", help="Its share of busy block devices, 10 to 1000."),
    click.option("--pids-limit", type=int, metavar="N", help="At most so many processes; -1: any."),
    click.option("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped."),
)


@click.command()
@_limits
@click.argument("references", nargs=-1, required=True, metavar="CONTAINER...")
@pass_engine
def update(engine: EngineClient, /, references: tuple[str, ...], **given: Any) -> None:
    """Change the limits of containers, at once if they run.

    Example: pyswarm update --memory 512m --cpus 2 web
    """
    body = update_body(given)
    if not body:
        raise click.UsageError("nothing to change: give an option such as --memory")

    def change(reference: str) -> None:
        warn_of(engine.post("containers", reference, "update", body=body))
        click.echo(reference)

    for_each(references, change)


def update_body(given: dict[str, Any]) -> dict[str, Any]:
    """Return the body for the options; what is not given is not in it."""
    return filled(
        {
            "Memory": given["memory"],
            "MemorySwap": memory_and_swap(given["memory_swap"]),
            "MemoryReservation": given["memory_reservation"],
            "NanoCpus": given["cpus"],
            "CpuShares": given["cpu_shares"],
            "CpuQuota": given["cpu_quota"],
            "CpuPeriod": given["cpu_period"],
            "CpusetCpus": given["cpuset_cpus"],
            "CpusetMems": given["cpuset_mems"],
            "BlkioWeight": given["blkio_weight"],
            "PidsLimit": given["pids_limit"],
            "RestartPolicy": restart_policy(given["restart"]) if given["restart"] else None,
        }
    )
