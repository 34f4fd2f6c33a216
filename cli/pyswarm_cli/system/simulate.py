"""`pyswarm simulate`: starts the managers' simulator, a program of its own, with the same arguments."""

import subprocess
import sys

import click


@click.command(
    add_help_option=False,  # the simulator has its own
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Ask an imagined cluster: would it all fit, and what happens when nodes fail?

    Example: pyswarm simulate scenario.toml
    """
    command = [sys.executable, "-P", "-m", "pyswarm_manager.simulator", *arguments]
    sys.exit(subprocess.run(command, check=False).returncode)
