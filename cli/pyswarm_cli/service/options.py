"""The options of `service create` and `service update`, with docker's names. How updates go and when to run: `rule_options`."""

import click

from pyswarm_cli.key_values import parsed
from pyswarm_cli.output import with_options
from pyswarm_cli.service.container_options import container_options
from pyswarm_cli.service.health import health_options
from pyswarm_cli.service.image_choice import image_options
from pyswarm_cli.service.log_options import log_driver_options
from pyswarm_cli.service.rule_options import Options, beyond_docker_options, help_text, restart_options, roll_options
from pyswarm_cli.units import parse_bytes, parse_duration_ns, parse_nano_cpus

_duration, _bytes, _cpus = parsed(parse_duration_ns), parsed(parse_bytes), parsed(parse_nano_cpus)
_SECRET_HELP = "Give a secret, as /run/secrets/NAME; also source=NAME,target=PATH,uid=N,gid=N,mode=0400 (repeatable)."
_CONFIG_HELP = "Give a config, as /NAME; also source=NAME,target=PATH,uid=N,gid=N,mode=0440 (repeatable)."
_NETWORK_HELP = "Join a network; also name=NETWORK,alias=NAME,driver-opt=KEY=VALUE (repeatable)."
_PUBLISH_HELP = (
    "Publish a port of the tasks on all nodes: 8080:80, 53:53/udp, 8000-8010:80-90, or 80 for any free port; "
    "with published=8080,target=80,mode=host on the nodes of the tasks only (repeatable)."
)
MODES = ["replicated", "global", "replicated-job", "global-job"]

detach_option = click.option("--detach", "-d", is_flag=True, help="Do not wait until the service has converged.")
wait_options = with_options(
    detach_option,
    click.option("--quiet", "-q", is_flag=True, help="Wait without showing progress."),
    click.option(
        "--wait-timeout", callback=_duration, metavar="DURATION", help="Give up waiting after this time.  [default: never]"
    ),
)

_count_options = with_options(
    click.option("--replicas", type=click.IntRange(0), metavar="N", help="How many tasks; of a job: how many completions."),
    click.option("--max-concurrent", type=click.IntRange(0), metavar="N", help="Of a job: at most so many tasks at once."),
    click.option("--replicas-max-per-node", type=click.IntRange(0), metavar="N", help="At most so many on a node (0: any number)."),
)
_resource_options = with_options(
    click.option("--limit-cpu", callback=_cpus, metavar="N", help="At most so many CPUs, such as 0.5."),
    click.option("--limit-memory", callback=_bytes, metavar="BYTES", help="At most so much memory, such as 256m."),
    click.option("--limit-pids", type=click.IntRange(0), metavar="N", help="At most so many processes in a container (0: any)."),
    click.option("--reserve-cpu", callback=_cpus, metavar="N", help="Only on nodes with so many CPUs left."),
    click.option("--reserve-memory", callback=_bytes, metavar="BYTES", help="Only on nodes with so much memory left."),
)


def _container_options(*, is_new: bool) -> Options:
    def said(text: str, default: str) -> str:
        return help_text(text, default, is_new=is_new)

    return with_options(
        click.option("--entrypoint", metavar="COMMAND", help="Replace the image's entrypoint."),
        click.option("--workdir", "-w", default="", metavar="PATH", help="The working directory."),
        click.option("--user", "-u", default="", metavar="NAME|UID[:GROUP|GID]", help="Run as this user."),
        click.option("--hostname", default="", metavar="NAME", help="The containers' host name."),
        click.option("--stop-signal", default="", metavar="SIGNAL", help=said("What asks it to stop.", "SIGTERM")),
        click.option(
            "--stop-grace-period", callback=_duration, metavar="DURATION", help=said("From stop signal to SIGKILL.", "10s")
        ),
        click.option(
            "--endpoint-mode", type=click.Choice(["vip", "dnsrr"]), help=said("One virtual address, or DNS round robin.", "vip")
        ),
    )


create_options = with_options(
    click.option("--name", metavar="NAME", help="The service's name, which is also its DNS name.  [default: a made-up one]"),
    click.option("--mode", type=click.Choice(MODES), default="replicated", show_default=True, help="What sort of service."),
    _count_options,
    click.option("--network", multiple=True, metavar="NETWORK", help=_NETWORK_HELP),
    click.option("--publish", "-p", multiple=True, metavar="PORT:PORT", help=_PUBLISH_HELP),
    click.option("--env", "-e", multiple=True, metavar="KEY=VALUE", help="Set an environment variable (repeatable)."),
    click.option("--label", "-l", multiple=True, metavar="KEY=VALUE", help="A label of the service (repeatable)."),
    click.option("--container-label", multiple=True, metavar="KEY=VALUE", help="A label of its containers (repeatable)."),
    click.option("--secret", multiple=True, metavar="SECRET", help=_SECRET_HELP),
    click.option("--config", multiple=True, metavar="CONFIG", help=_CONFIG_HELP),
    click.option("--mount", multiple=True, metavar="MOUNT", help="type=bind,source=/srv,target=/data,readonly (repeatable)."),
    _container_options(is_new=True),
    container_options(is_new=True),
    health_options(is_new=True),
    log_driver_options,
    click.option(
        "--constraint", multiple=True, metavar="EXPRESSION", help="Only on such nodes: node.labels.disk==ssd (repeatable)."
    ),
    click.option("--placement-pref", multiple=True, metavar="spread=LABEL", help="Spread over the values of a label (repeatable)."),
    click.option("--generic-resource", multiple=True, metavar="KIND=N", help="Only where so many are left: gpu=1 (repeatable)."),
    _resource_options,
    restart_options(is_new=True),
    roll_options("update", is_new=True),
    roll_options("rollback", is_new=True),
    beyond_docker_options(is_new=True),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Show where tasks would land, and why not elsewhere; create nothing. Exit code 1: some would wait.",
    ),
    click.option(
        "--format", "output_format", type=click.Choice(["table", "json"]), default="table", help="How --dry-run is shown."
    ),
    image_options,
)

update_options = with_options(
    click.option("--image", default="", metavar="IMAGE", help="Another image."),
    click.option("--args", metavar="COMMAND", help="Another command for the container."),
    _count_options,
    click.option("--env-add", multiple=True, metavar="KEY=VALUE", help="Add or change an environment variable (repeatable)."),
    click.option("--env-rm", multiple=True, metavar="KEY", help="Remove an environment variable (repeatable)."),
    click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label (repeatable)."),
    click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label (repeatable)."),
    click.option("--container-label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a container label (repeatable)."),
    click.option("--container-label-rm", multiple=True, metavar="KEY", help="Remove a container label (repeatable)."),
    click.option("--network-add", multiple=True, metavar="NETWORK", help=_NETWORK_HELP),
    click.option("--network-rm", multiple=True, metavar="NETWORK", help="Leave a network (repeatable)."),
    click.option("--publish-add", multiple=True, metavar="PORT:PORT", help=_PUBLISH_HELP),
    click.option("--publish-rm", multiple=True, metavar="TARGET-PORT", help="Publish no more, such as 80 or 53/udp (repeatable)."),
    click.option("--secret-add", multiple=True, metavar="SECRET", help=_SECRET_HELP),
    click.option("--secret-rm", multiple=True, metavar="SECRET", help="Take a secret away (repeatable)."),
    click.option("--config-add", multiple=True, metavar="CONFIG", help=_CONFIG_HELP),
    click.option("--config-rm", multiple=True, metavar="CONFIG", help="Take a config away (repeatable)."),
    click.option("--mount-add", multiple=True, metavar="MOUNT", help="Add or change a mount (repeatable)."),
    click.option("--mount-rm", multiple=True, metavar="TARGET", help="Remove the mount on this path (repeatable)."),
    _container_options(is_new=False),
    container_options(is_new=False),
    health_options(is_new=False),
    log_driver_options,
    click.option("--constraint-add", multiple=True, metavar="EXPRESSION", help="Add a constraint (repeatable)."),
    click.option("--constraint-rm", multiple=True, metavar="EXPRESSION", help="Remove a constraint (repeatable)."),
    click.option("--placement-pref-add", multiple=True, metavar="spread=LABEL", help="Add a placement preference (repeatable)."),
    click.option("--placement-pref-rm", multiple=True, metavar="spread=LABEL", help="Remove a placement preference (repeatable)."),
    click.option("--generic-resource-add", multiple=True, metavar="KIND=N", help="Reserve a generic resource (repeatable)."),
    click.option("--generic-resource-rm", multiple=True, metavar="KIND", help="Reserve it no more (repeatable)."),
    _resource_options,
    restart_options(is_new=False),
    roll_options("update", is_new=False),
    roll_options("rollback", is_new=False),
    beyond_docker_options(is_new=False),
    click.option("--force", is_flag=True, help="Replace the tasks even if nothing else changes."),
    click.option("--rollback", is_flag=True, help="Return to the previous form of the service instead."),
    image_options,
)
