"""The entry point `pyswarm`: the command tree, with Docker's names."""

import click

from pyswarm_cli.address import DEFAULT_HOST, HOST_VARIABLE
from pyswarm_cli.lazy_group import LazyCommand, LazyGroup

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(
    cls=LazyGroup,
    context_settings=_SETTINGS,
    lazy={
        "swarm": LazyCommand("pyswarm_cli.swarm.commands:swarm", "Begin a cluster, join it, leave it."),
        "node": LazyCommand("pyswarm_cli.node.commands:node", "The machines of the cluster."),
        "service": LazyCommand("pyswarm_cli.service.commands:service", "What the cluster runs."),
        "task": LazyCommand("pyswarm_cli.task.commands:task", "Why a task is where it is, and its story."),
        "network": LazyCommand("pyswarm_cli.network.commands:network", "Overlays that join containers across hosts."),
        "image": LazyCommand("pyswarm_cli.image.commands:image", "The images of this node."),
        "container": LazyCommand("pyswarm_cli.container.commands:container", "The containers of this node."),
        "run": LazyCommand("pyswarm_cli.container.running:run", "Make a container on this node and run it."),
        "create": LazyCommand("pyswarm_cli.container.running:create", "Make a container on this node."),
        "ps": LazyCommand("pyswarm_cli.container.commands:list_containers", "The containers that run on this node."),
        "start": LazyCommand("pyswarm_cli.container.running:start", "Start containers."),
        "stop": LazyCommand("pyswarm_cli.container.commands:stop", "Stop containers."),
        "restart": LazyCommand("pyswarm_cli.container.commands:restart", "Stop containers and start them again."),
        "kill": LazyCommand("pyswarm_cli.container.commands:kill", "Send a signal to containers."),
        "pause": LazyCommand("pyswarm_cli.container.commands:pause", "Freeze containers."),
        "unpause": LazyCommand("pyswarm_cli.container.commands:unpause", "Let frozen containers go on."),
        "wait": LazyCommand("pyswarm_cli.container.commands:wait", "Wait until containers have ended."),
        "rename": LazyCommand("pyswarm_cli.container.commands:rename", "Give a container another name."),
        "rm": LazyCommand("pyswarm_cli.container.commands:rm", "Remove containers."),
        "port": LazyCommand("pyswarm_cli.container.commands:port", "Where a container's ports are published."),
        "exec": LazyCommand("pyswarm_cli.container.reaching:execute", "Run a command in a container or task, on any node."),
        "attach": LazyCommand("pyswarm_cli.container.reaching:attach", "Join the streams of a container or task, on any node."),
        "cp": LazyCommand("pyswarm_cli.container.copying:copy", "Copy files to or from a container or task, on any node."),
        "diff": LazyCommand("pyswarm_cli.container.files:diff", "What a container or task changed in its image's files."),
        "export": LazyCommand("pyswarm_cli.container.files:export", "The files of a container or task, as a tarball."),
        "update": LazyCommand("pyswarm_cli.container.updating:update", "Change the limits of containers."),
        "logs": LazyCommand("pyswarm_cli.container.logs:logs", "What a container or task said, on any node."),
        "top": LazyCommand("pyswarm_cli.container.reaching:top", "The processes of a container or task, on any node."),
        "stats": LazyCommand("pyswarm_cli.container.stats:stats", "What containers and tasks use, on any node."),
        "port-forward": LazyCommand(
            "pyswarm_cli.container.port_forward:port_forward", "Ports of this machine into a container or task."
        ),
        "secret": LazyCommand("pyswarm_cli.content.commands:secret", "What containers must know and nobody else."),
        "config": LazyCommand("pyswarm_cli.content.commands:config", "Files for containers, beside their images."),
        "volume": LazyCommand("pyswarm_cli.volume.commands:volume", "The volumes of this node."),
        "images": LazyCommand("pyswarm_cli.image.commands:list_images", "List the images of this node."),
        "pull": LazyCommand("pyswarm_cli.image.moving:pull", "Pull an image from a registry to this node."),
        "push": LazyCommand("pyswarm_cli.image.moving:push", "Push an image to the registry that its name says."),
        "load": LazyCommand("pyswarm_cli.image.moving:load", "Load images from a tarball."),
        "save": LazyCommand("pyswarm_cli.image.moving:save", "Save images to a tarball."),
        "import": LazyCommand("pyswarm_cli.image.moving:import_files", "Make an image of a tarball of files."),
        "tag": LazyCommand("pyswarm_cli.image.commands:tag", "Give an image another name."),
        "rmi": LazyCommand("pyswarm_cli.image.commands:rm", "Remove images from this node."),
        "history": LazyCommand("pyswarm_cli.image.commands:history", "Show the steps that made an image."),
        "login": LazyCommand("pyswarm_cli.registry.commands:login", "Log in to a registry."),
        "logout": LazyCommand("pyswarm_cli.registry.commands:logout", "Forget the credentials of a registry."),
        "inspect": LazyCommand("pyswarm_cli.system.inspecting:inspect", "Show all about anything that has a name or id."),
        "info": LazyCommand("pyswarm_cli.system.commands:info", "Show this node and its place in the cluster."),
        "version": LazyCommand("pyswarm_cli.system.commands:version", "Show the versions of this command and of the daemon."),
        "simulate": LazyCommand("pyswarm_cli.system.simulate:simulate", "Ask an imagined cluster what would happen."),
        "debug": LazyCommand("pyswarm_cli.debug.commands:debug", "What a node's network should be, and what it is."),
        "lab": LazyCommand("pyswarm_cli.lab.commands:lab", "Hosts on this machine, for trying and testing."),
    },
)
@click.option(
    "--host",
    "-H",
    envvar=HOST_VARIABLE,
    default=DEFAULT_HOST,
    show_default=True,
    show_envvar=True,
    metavar="unix:///PATH",
    help="The daemon to talk to.",
)
@click.pass_context
def pyswarm(context: click.Context, host: str) -> None:
    """Run containers as services on a cluster of machines.

    \b
    A cluster and a service in three commands:
      pyswarm swarm init
      pyswarm service create --name web --replicas 3 nginx
      pyswarm service ps web
    """
    from pyswarm_cli.engine import EngineClient

    engine = context.obj = EngineClient(host)
    context.call_on_close(engine.close)


def main() -> None:
    """Run the command line; errors are one message on standard error, and exit code 1 (2 for wrong usage)."""
    pyswarm(prog_name="pyswarm")
