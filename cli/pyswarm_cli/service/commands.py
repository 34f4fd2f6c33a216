"""`pyswarm service …`: the commands that make and change services. Listing and inspecting are in `listing`, logs in `logs`."""

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup
from pyswarm_cli.output import for_each, warn_of
from pyswarm_cli.service.options import create_options, update_options, wait_options

pass_engine = click.make_pass_decorator(EngineClient)
_IMAGE_OPTIONS = ("no_resolve_image", "with_registry_auth")


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": LazyCommand("pyswarm_cli.service.listing:list_services", "List services."),
        "ps": LazyCommand("pyswarm_cli.service.listing:ps", "List the tasks of services, with what went wrong."),
        "inspect": LazyCommand("pyswarm_cli.service.listing:inspect", "Show all about services."),
        "runs": LazyCommand("pyswarm_cli.service.runs:runs", "List the runs of a scheduled job."),
        "logs": LazyCommand("pyswarm_cli.service.logs:logs", "Show what a service's tasks, or one task, said."),
    },
)
def service() -> None:
    """What the cluster runs."""


@service.command(context_settings={"allow_interspersed_args": False})
@create_options
@wait_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG]...")
@pass_engine
def create(
    engine: EngineClient,
    /,
    image: str,
    command: tuple[str, ...],
    detach: bool,
    quiet: bool,
    wait_timeout: int | None,
    dry_run: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Create a service, and wait until its tasks run.

    Prints its id. A job is waited for until it is complete; one with a schedule runs when it is due.

    \b
    Examples:
      pyswarm service create --name web --replicas 3 --network app nginx:1.22
      pyswarm service create --name web --replicas 6 --update-order start-first --update-failure-action rollback nginx
      pyswarm service create --name agent --mode global --constraint node.role==worker monitor:2
      pyswarm service create --name resize --mode replicated-job --replicas 20 --max-concurrent 5 resizer
      pyswarm service create --name backup --mode replicated-job --schedule '30 3 * * *' --schedule-timezone Europe/Berlin saver
      pyswarm service create --name api --depends-on db --env DB=db api:7
      pyswarm service create --name web --secret tls.key --config source=nginx.conf,target=/etc/nginx/nginx.conf nginx
      pyswarm service create --name encoder --device nvidia.com/gpu=all --sysctl net.core.somaxconn=1024 ffmpeg:6
      pyswarm service create --dry-run --replicas 8 --reserve-memory 2g --constraint node.labels.disk==ssd db:15
    """
    from pyswarm_cli.content.references import with_references
    from pyswarm_cli.service.spec import service_spec

    spec = service_spec(image, command, with_references(engine, options), os.environ)
    if dry_run:
        from pyswarm_cli.service.dry_run import show_dry_run

        show_dry_run(engine, spec, output_format)
        return
    from pyswarm_cli.service.image_choice import registry_headers, resolve_query

    created = engine.post("services", "create", body=spec, headers=registry_headers(options, image), **resolve_query(options))
    warn_of(created)
    click.echo(created["ID"])
    if not detach:
        from pyswarm_cli.service.waiting import ChangedService, Patience, wait_until_converged

        name = options["name"] or engine.get("services", created["ID"])["Spec"]["Name"]
        wait_until_converged(engine, ChangedService(created["ID"], name), Patience(detach, quiet, wait_timeout))


@service.command()
@update_options
@wait_options
@click.argument("name", metavar="SERVICE")
@pass_engine
def update(engine: EngineClient, /, name: str, detach: bool, quiet: bool, wait_timeout: int | None, **options: Any) -> None:
    """Change a service, and wait until tasks of its new form run.

    Tasks are replaced a few at a time, as --update-parallelism and --update-delay say. An update that fails is paused, goes on or
    is rolled back, as --update-failure-action says; when it does not complete, the exit code is 1. A paused update goes on with the
    next `service update`.

    \b
    Examples:
      pyswarm service update --image nginx:1.24 --env-add LEVEL=debug web
      pyswarm service update --image nginx:1.24 --update-parallelism 2 --update-delay 10s --update-order start-first web
      pyswarm service update --constraint-add node.labels.zone==north --constraint-rm node.labels.zone==south web
      pyswarm service update --force web
      pyswarm service update --schedule '0 4 * * *' backup
    """
    if options.pop("rollback"):
        _refuse_other_options(options)
        _roll_back(engine, name, detach=detach, quiet=quiet, timeout_ns=wait_timeout)
        return
    from pyswarm_cli.content.references import with_references
    from pyswarm_cli.service.changed_spec import updated_spec
    from pyswarm_cli.service.changing import change_service
    from pyswarm_cli.service.image_choice import image_of, registry_headers, resolve_query, resolved_image
    from pyswarm_cli.service.waiting import Patience, wait_until_converged

    options["image"] = resolved_image(engine, options, options["image"])
    options = with_references(engine, options, "_add")
    networks = _network_ids(engine, (*options["network_add"], *options["network_rm"]))
    changed = change_service(
        engine,
        name,
        lambda spec: updated_spec(spec, options, os.environ, networks),
        headers_of=lambda spec: registry_headers(options, image_of(spec)),
        query=resolve_query(options),
    )
    click.echo(name)
    wait_until_converged(engine, changed, Patience(detach, quiet, wait_timeout))


@service.command()
@wait_options
@click.argument("name", metavar="SERVICE")
@pass_engine
def rollback(engine: EngineClient, name: str, detach: bool, quiet: bool, wait_timeout: int | None) -> None:
    """Return a service to its previous form.

    Waits until tasks of that form run. It goes as the --rollback options of the service say. Rolling back twice is where one began.

    Example: pyswarm service rollback web
    """
    _roll_back(engine, name, detach=detach, quiet=quiet, timeout_ns=wait_timeout)


@service.command()
@wait_options
@click.argument("wanted", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@pass_engine
def scale(engine: EngineClient, wanted: tuple[str, ...], detach: bool, quiet: bool, wait_timeout: int | None) -> None:
    """Change how many tasks services have, and wait until so many run.

    Example: pyswarm service scale web=10 worker=4
    """
    from pyswarm_cli.service.changed_spec import with_replicas
    from pyswarm_cli.service.changing import change_service
    from pyswarm_cli.service.waiting import Patience, wait_until_converged

    pairs = [_parse_scale(text) for text in wanted]
    changed = []
    for name, replicas in pairs:
        changed.append(change_service(engine, name, partial(with_replicas, replicas=replicas)))
        click.echo(f"{name} scaled to {replicas}")
    for each in changed:
        wait_until_converged(engine, each, Patience(detach, quiet, wait_timeout))


@service.command()
@click.option("--wait", is_flag=True, help="Wait until the last of their tasks has ended.")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@pass_engine
def rm(engine: EngineClient, wait: bool, services: tuple[str, ...]) -> None:
    """Remove services; their tasks end.

    Example: pyswarm service rm web
    """
    removed: set[str] = set()

    def remove(name: str) -> None:
        service_id = engine.get("services", name)["ID"]
        engine.delete("services", service_id)
        removed.add(service_id)
        click.echo(name)

    try:
        for_each(services, remove)
    finally:
        if wait and removed:
            from pyswarm_cli.service.waiting import wait_until_gone

            wait_until_gone(engine, removed, timeout_ns=None)


def _roll_back(engine: EngineClient, name: str, *, detach: bool, quiet: bool, timeout_ns: int | None) -> None:
    from pyswarm_cli.service.changing import change_service
    from pyswarm_cli.service.waiting import Patience, wait_until_converged

    changed = change_service(engine, name, lambda spec: spec, is_rollback=True)
    click.echo(name)
    wait_until_converged(engine, changed, Patience(detach, quiet, timeout_ns))


def _refuse_other_options(options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value not in (None, "", (), False) and name not in _IMAGE_OPTIONS]
    if given:
        raise click.UsageError(f"--rollback does not go with other changes (--{given[0].replace('_', '-')})")


def _network_ids(engine: EngineClient, references: Iterable[str]) -> dict[str, str]:
    """The ids of networks that are named: the spec holds ids."""
    from pyswarm_cli.service.networks import parse_network

    names = {parse_network(text)["Target"] for text in references}
    return {name: engine.get("networks", name, scope="swarm")["Id"] for name in names}


def _parse_scale(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not name or not equals or not number.isascii() or not number.isdigit():
        raise click.UsageError(f"{text!r} is not SERVICE=REPLICAS, such as web=3")
    return name, int(number)
