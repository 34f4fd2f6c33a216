"""The options of `pyswarm run` and `pyswarm create`, with docker's names."""

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.units import parse_bytes, parse_duration_ns, parse_nano_cpus

_duration, _bytes, _cpus = parsed(parse_duration_ns), parsed(parse_bytes), parsed(parse_nano_cpus)

_what_it_is = with_options(
    click.option("--name", default="", metavar="NAME", help="The container's name.  [default: a made-up one]"),
    click.option("--entrypoint", metavar="COMMAND", help="Replace the image's entrypoint."),
    click.option("--env", "-e", "env", multiple=True, metavar="KEY=VALUE", help="Set an environment variable (repeatable)."),
    click.option("--env-file", multiple=True, type=click.Path(exists=True, dir_okay=False), help="Read variables from a file."),
    click.option("--label", "-l", "label", multiple=True, metavar="KEY=VALUE", help="Label it (repeatable)."),
    click.option("--workdir", "-w", default="", metavar="PATH", help="The working directory."),
    click.option("--user", "-u", default="", metavar="NAME|UID[:GROUP|GID]", help="Run as this user."),
    click.option("--group-add", multiple=True, metavar="GROUP", help="A further group of the user (repeatable)."),
    click.option("--hostname", "-h", default="", metavar="NAME", help="Its host name."),
    click.option("--interactive", "-i", is_flag=True, help="Give it a standard input, kept open."),
    click.option("--tty", "-t", is_flag=True, help="Give it a terminal."),
    click.option("--init", is_flag=True, help="Run a small init that reaps processes before the command."),
    click.option(
        "--restart", default="no", show_default=True, metavar="POLICY", help="no, on-failure[:N], always, unless-stopped."
    ),
    click.option("--rm", is_flag=True, help="Remove it, and its anonymous volumes, when it ends."),
    click.option("--stop-signal", default="", metavar="SIGNAL", help="What asks it to stop."),
    click.option("--stop-timeout", type=int, metavar="SECONDS", help="From stop signal to SIGKILL."),
    click.option(
        "--pull", type=click.Choice(["always", "missing", "never"]), default="missing", show_default=True, help="When to pull."
    ),
    click.option("--quiet", "-q", is_flag=True, help="Say nothing of the pull."),
    click.option("--cidfile", default="", metavar="FILE", help="Write the container's id to this new file."),
)

_what_it_reaches = with_options(
    click.option("--network", "--net", default="", metavar="NETWORK", help="bridge, host, none, container:NAME, or an overlay."),
    click.option("--network-alias", multiple=True, metavar="NAME", help="A further name of it on that overlay (repeatable)."),
    click.option("--ip", default="", metavar="ADDRESS", help="The address to have on that overlay."),
    click.option(
        "--publish", "-p", "publish", multiple=True, metavar="[IP:][PORT:]PORT[/PROTO]", help="Publish a port (repeatable)."
    ),
    click.option("--publish-all", "-P", is_flag=True, help="Publish all that the image exposes, on free ports."),
    click.option("--expose", multiple=True, metavar="PORT[/PROTO]", help="Expose a port (repeatable)."),
    click.option("--add-host", multiple=True, metavar="NAME:IP", help="A line of /etc/hosts (repeatable)."),
    click.option("--dns", multiple=True, metavar="IP", help="A name server (repeatable)."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="A search domain (repeatable)."),
    click.option("--dns-option", multiple=True, metavar="OPTION", help="An option of the resolver (repeatable)."),
    click.option(
        "--volume", "-v", "volume", multiple=True, metavar="SOURCE:TARGET[:ro]", help="Mount a path or volume (repeatable)."
    ),
    click.option("--mount", multiple=True, metavar="MOUNT", help="type=volume,source=data,target=/data,readonly (repeatable)."),
    click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="Mount a tmpfs (repeatable)."),
    click.option("--device", multiple=True, metavar="PATH[:PATH][:rwm]", help="Give it a device of the host (repeatable)."),
)

_what_it_may = with_options(
    click.option("--memory", "-m", callback=_bytes, metavar="BYTES", help="At most so much memory, such as 256m."),
    click.option("--memory-swap", metavar="BYTES", help="Memory and swap together; -1: any."),
    click.option("--memory-reservation", callback=_bytes, metavar="BYTES", help="What it keeps when memory gets short."),
    click.option("--memory-swappiness", type=click.IntRange(0, 100), metavar="N", help="How readily it is swapped."),
    click.option("--cpus", callback=_cpus, metavar="N", help="At most so many CPUs, such as 0.5."),
    click.option("--cpu-quota", type=int, metavar="µs", help="CPU time in each period."),
    click.option("--cpu-period", type=int, metavar="µs", help="Such a period.  [default: 100000]"),
    click.option("--cpu-shares", "-c", type=int, metavar="N", help="Its share when CPUs are short (1024: the usual)."),
    click.option("--cpuset-cpus", default="", metavar="LIST", help="The CPUs that it may use, such as 0-2,5."),
    click.option("--cpuset-mems", default="", metavar="LIST", help="The memory nodes that it may use."),
    click.option("--blkio-weight", type=int, metavar="N", help="Its share of busy block devices, 10 to 1000."),
    click.option("--device-read-bps", multiple=True, metavar="PATH:BYTES", help="Read at most so much a second (repeatable)."),
    click.option("--device-write-bps", multiple=True, metavar="PATH:BYTES", help="Write at most so much a second (repeatable)."),
    click.option("--device-read-iops", multiple=True, metavar="PATH:N", help="At most so many reads a second (repeatable)."),
    click.option("--device-write-iops", multiple=True, metavar="PATH:N", help="At most so many writes a second (repeatable)."),
    click.option("--device-cgroup-rule", multiple=True, metavar="RULE", help="Further devices, as 'c 10:* rwm' (repeatable)."),
    click.option("--pids-limit", type=int, metavar="N", help="At most so many processes."),
    click.option("--shm-size", callback=_bytes, metavar="BYTES", help="Size of /dev/shm."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="A limit of its processes (repeatable)."),
    click.option("--sysctl", multiple=True, metavar="KEY=VALUE", help="A kernel setting of its namespaces (repeatable)."),
    click.option("--cap-add", multiple=True, metavar="CAPABILITY", help="Add a capability (repeatable)."),
    click.option("--cap-drop", multiple=True, metavar="CAPABILITY", help="Take a capability away (repeatable)."),
    click.option(
        "--security-opt", multiple=True, metavar="OPTION", help="no-new-privileges, seccomp=FILE|unconfined, apparmor=NAME."
    ),
    click.option("--privileged", is_flag=True, help="All capabilities and devices, nothing hidden."),
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), metavar="N", help="How readily the kernel kills it."),
)

_how_it_is_seen = with_options(
    click.option("--health-cmd", metavar="COMMAND", help="What checks its health."),
    click.option("--health-interval", callback=_duration, metavar="DURATION", help="From check to check."),
    click.option("--health-timeout", callback=_duration, metavar="DURATION", help="How long a check may take."),
    click.option("--health-retries", type=click.IntRange(0), metavar="N", help="So many failures make it unhealthy."),
    click.option("--health-start-period", callback=_duration, metavar="DURATION", help="Failures do not count that long."),
    click.option("--health-start-interval", callback=_duration, metavar="DURATION", help="From check to check in that time."),
    click.option("--no-healthcheck", is_flag=True, help="Do without the image's healthcheck."),
    click.option(
        "--log-driver", default="", metavar="DRIVER", help="What becomes of its output: json-file, local, journald, none."
    ),
    click.option("--log-opt", multiple=True, metavar="KEY=VALUE", help="An option of that, such as max-size=10m (repeatable)."),
)

create_options = with_options(_what_it_is, _what_it_reaches, _what_it_may, _how_it_is_seen)
