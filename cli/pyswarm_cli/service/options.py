"""The options of `service create` and `service update`, with docker's names."""

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.units import parse_bytes, parse_duration_ns, parse_nano_cpus

_duration, _bytes, _cpus = parsed(parse_duration_ns), parsed(parse_bytes), parsed(parse_nano_cpus)

wait_options = with_options(
    click.option("--detach", "-d", is_flag=True, help="Do not wait until the tasks run."),
    click.option("--quiet", "-q", is_flag=True, help="Wait without showing progress."),
    click.option(
        "--wait-timeout", callback=_duration, metavar="DURATION", help="Give up waiting after this time.  [default: never]"
    ),
)

_resource_options = with_options(
    click.option("--limit-cpu", callback=_cpus, metavar="N", help="At most so many CPUs, such as 0.5."),
    click.option("--limit-memory", callback=_bytes, metavar="BYTES", help="At most so much memory, such as 256m."),
    click.option("--reserve-cpu", callback=_cpus, metavar="N", help="Only on nodes with so many CPUs left."),
    click.option("--reserve-memory", callback=_bytes, metavar="BYTES", help="Only on nodes with so much memory left."),
)

create_options = with_options(
    click.option("--name", metavar="NAME", help="The service's name, which is also its DNS name.  [default: a made-up one]"),
    click.option("--replicas", type=click.IntRange(0), metavar="N", help="How many tasks.  [default: 1]"),
    click.option("--mode", type=click.Choice(["replicated", "global"]), default="replicated", show_default=True),
    click.option("--network", multiple=True, metavar="NETWORK", help="Join a network; also name=NETWORK,alias=NAME (repeatable)."),
    click.option(
        "--publish", "-p", multiple=True, metavar="PORT:PORT", help="Publish a port of the tasks, such as 8080:80 (repeatable)."
    ),
    click.option(
        "--endpoint-mode", type=click.Choice(["vip", "dnsrr"]), help="One virtual address, or DNS round robin.  [default: vip]"
    ),
    click.option("--env", "-e", multiple=True, metavar="KEY=VALUE", help="Set an environment variable (repeatable)."),
    click.option("--label", "-l", multiple=True, metavar="KEY=VALUE", help="A label of the service (repeatable)."),
    click.option("--container-label", multiple=True, metavar="KEY=VALUE", help="A label of its containers (repeatable)."),
    click.option("--mount", multiple=True, metavar="MOUNT", help="type=bind,source=/srv,target=/data,readonly (repeatable)."),
    click.option("--entrypoint", metavar="COMMAND", help="Replace the image's entrypoint."),
    click.option("--workdir", "-w", default="", metavar="PATH", help="The working directory."),
    click.option("--user", "-u", default="", metavar="NAME|UID[:GROUP|GID]", help="Run as this user."),
    click.option("--hostname", default="", metavar="NAME", help="The containers' host name."),
    click.option("--tty", "-t", is_flag=True, help="Give it a terminal."),
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("--cap-add", multiple=True, metavar="CAPABILITY", help="Add a capability, such as NET_ADMIN (repeatable)."),
    click.option("--cap-drop", multiple=True, metavar="CAPABILITY", help="Take a capability away, or ALL (repeatable)."),
    click.option(
        "--constraint", multiple=True, metavar="EXPRESSION", help="Only on such nodes: node.labels.disk==ssd (repeatable)."
    ),
    click.option("--placement-pref", multiple=True, metavar="spread=LABEL", help="Spread over the values of a label (repeatable)."),
    click.option("--replicas-max-per-node", type=click.IntRange(0), metavar="N", help="At most so many tasks on one node."),
    _resource_options,
    click.option("--limit-pids", type=click.IntRange(0), metavar="N", help="At most so many processes in a container."),
    click.option("--restart-condition", type=click.Choice(["none", "on-failure", "any"]), help="When to restart.  [default: any]"),
    click.option("--restart-delay", callback=_duration, metavar="DURATION", help="How long before a restart.  [default: 5s]"),
    click.option("--restart-max-attempts", type=click.IntRange(0), metavar="N", help="Then give up."),
    click.option("--restart-window", callback=_duration, metavar="DURATION", help="Attempts count within this time."),
    click.option(
        "--stop-grace-period", callback=_duration, metavar="DURATION", help="From stop signal to SIGKILL.  [default: 10s]"
    ),
    click.option("--stop-signal", default="", metavar="SIGNAL", help="What asks it to stop.  [default: SIGTERM]"),
    click.option("--no-resolve-image", is_flag=True, hidden=True, help="Accepted for docker's sake: nodes resolve the image."),
)

update_options = with_options(
    click.option("--image", default="", metavar="IMAGE", help="Another image."),
    click.option("--args", metavar="COMMAND", help="Another command for the container."),
    click.option("--replicas", type=click.IntRange(0), metavar="N", help="Another number of tasks."),
    click.option("--env-add", multiple=True, metavar="KEY=VALUE", help="Add or change an environment variable (repeatable)."),
    click.option("--env-rm", multiple=True, metavar="KEY", help="Remove an environment variable (repeatable)."),
    click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label (repeatable)."),
    click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label (repeatable)."),
    click.option("--constraint-add", multiple=True, metavar="EXPRESSION", help="Add a constraint (repeatable)."),
    click.option("--constraint-rm", multiple=True, metavar="EXPRESSION", help="Remove a constraint (repeatable)."),
    _resource_options,
    click.option("--force", is_flag=True, help="Replace the tasks even if nothing else changes."),
)
