"""The options of `service create` and `update` for what surrounds a container's processes: names, limits, confinement, devices.

Devices, privileges and security options go beyond `docker service`; they are named as in `docker run`.
"""

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.service.rule_options import Options
from pyswarm_cli.units import parse_bytes


def _swap_bytes(text: str) -> int:
    return -1 if text == "-1" else parse_bytes(text)


_LISTS = (
    ("group", "GROUP", "A group besides the user's own", "GROUP"),
    ("host", "HOST:IP", "A line for /etc/hosts", "HOST"),
    ("dns", "IP", "Where the container's resolver asks on", "IP"),
    ("dns-search", "DOMAIN", "A search domain", "DOMAIN"),
    ("dns-option", "OPTION", "A resolver option, such as timeout:3", "OPTION"),
    ("sysctl", "NAME=VALUE", "A kernel setting of the container's own, such as net.core.somaxconn=1024", "NAME"),
    ("ulimit", "NAME=SOFT[:HARD]", "A limit of each process, such as nofile=1024:2048", "NAME"),
    ("device", "DEVICE", "A device, /dev/x[:/dev/y[:rwm]] or by CDI vendor.com/class=name, where operators allow it", "DEVICE"),
)


def container_options(*, is_new: bool) -> Options:
    """Return the options; those that an update takes alone have -add and -rm."""
    return with_options(
        *_list_options(is_new=is_new),
        click.option("--gpus", metavar="all|N|device=A,B", help="GPUs by CDI (nvidia.com/gpu), where operators allow it."),
        _flag("privileged", "Hold the container back from nothing, where operators allow it.", is_new=is_new),
        _flag("init", "Run a small init that reaps processes and hands signals on.", is_new=is_new),
        _flag("tty", "Give it a terminal.", is_new=is_new, short="-t"),
        _flag("read-only", "Mount the root file system read-only.", is_new=is_new),
        click.option("--cap-add", multiple=True, metavar="CAPABILITY", help="Add a capability, such as NET_ADMIN (repeatable)."),
        click.option("--cap-drop", multiple=True, metavar="CAPABILITY", help="Take a capability away, or ALL (repeatable)."),
        click.option(
            "--security-opt",
            multiple=True,
            metavar="OPTION",
            help="no-new-privileges, seccomp=FILE, seccomp=unconfined or apparmor=unconfined (repeatable).",
        ),
        click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), metavar="N", help="When memory is short, killed sooner."),
        click.option(
            "--memory-swap", callback=parsed(_swap_bytes), metavar="BYTES", help="Swap beside --limit-memory, -1: any amount."
        ),
        click.option(
            "--memory-swappiness", type=click.IntRange(-1, 100), metavar="N", help="How readily it is swapped out, -1: as the host."
        ),
    )


def _list_options(*, is_new: bool) -> list[Options]:
    options: list[Options] = []
    for name, metavar, text, key in _LISTS:
        if is_new:
            options.append(click.option(f"--{name}", multiple=True, metavar=metavar, help=f"{text} (repeatable)."))
            continue
        options.append(click.option(f"--{name}-add", multiple=True, metavar=metavar, help=f"{text} (repeatable)."))
        options.append(click.option(f"--{name}-rm", multiple=True, metavar=key, help=f"Remove a --{name} (repeatable)."))
    return options


def _flag(name: str, text: str, *, is_new: bool, short: str = "") -> Options:
    names = [f"--{name}", *([short] if short else [])]
    if is_new:
        return click.option(*names, is_flag=True, help=text)
    return click.option("/".join((f"--{name}", f"--no-{name}")), *names[1:], default=None, help=text)
