"""`pyswarm login` and `pyswarm logout`."""

import sys

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.registry.docker_config import HUB, DockerConfig, address_of

pass_engine = click.make_pass_decorator(EngineClient)


@click.command()
@click.option("--username", "-u", default="", metavar="NAME", help="The user; asked for if it is not given.")
@click.option("--password", "-p", default="", metavar="PASSWORD", help="The password; others on this machine may see it here.")
@click.option("--password-stdin", is_flag=True, help="Take the password from standard input.")
@click.argument("server", required=False, default="")
@pass_engine
def login(engine: EngineClient, username: str, password: str, password_stdin: bool, server: str) -> None:
    """Log in to a registry; without SERVER to Docker Hub.

    The daemon checks the credentials at the registry. They are kept in ~/.docker/config.json, or with the credential helper that is
    named there, as docker does: both commands use each other's. `service create --with-registry-auth` gives them to the nodes.

    \b
    Example: pyswarm login --username ada registry.example.com:5000
             pass show registry | pyswarm login --username ada --password-stdin registry.example.com:5000
    """
    registry, config = address_of(server), DockerConfig()
    username, password = _asked_for(config, registry, username, password, from_stdin=password_stdin)
    body = {"username": username, "password": password, "serveraddress": registry}
    answer = engine.post("auth", body=body)
    token = answer.get("IdentityToken", "")
    config.store(registry, {**body, "identitytoken": token} if token else body)
    if config.keeps_plain_text:
        click.echo(f"The {'token' if token else 'password'} is kept unencrypted in {config.path}.", err=True)
    click.echo(answer.get("Status") or "Login Succeeded")


@click.command()
@click.argument("server", required=False, default="")
def logout(server: str) -> None:
    """Forget the credentials of a registry; without SERVER those of Docker Hub.

    Example: pyswarm logout registry.example.com:5000
    """
    registry = address_of(server)
    removed = DockerConfig().erase(registry)
    click.echo(f"Removing login credentials for {registry}" if removed else f"Not logged in to {registry}")


def _asked_for(config: DockerConfig, registry: str, username: str, password: str, *, from_stdin: bool) -> tuple[str, str]:
    if from_stdin:
        if password:
            raise click.UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise click.UsageError("Must provide --username with --password-stdin")
        return username, sys.stdin.read().rstrip("\r\n")
    if password:
        click.echo("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", err=True)
    if not (username and password) and not sys.stdin.isatty():
        raise click.UsageError("this is no terminal to ask on: give --username and --password-stdin")
    if not username:
        known = (config.credentials(registry) or {}).get("username", "")
        where = "Docker Hub" if registry == HUB else registry
        username = click.prompt(f"Username for {where}", default=known or None)
    return username, password or click.prompt("Password", hide_input=True)
