"""`pyswarmd`: reads the options and prepares the process; everything heavy is loaded after that, with `running`."""

import argparse
import os
import sys
from pathlib import Path

from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_common.generic_resources import parse_generic_resources
from pyswarm_common.specs import GenericResource
from pyswarm_node.config import DEFAULT_DATA_DIR, DEFAULT_RUNTIME_DIR, ENGINE_VERSION, DaemonConfig

UNUSED_EXTRAS = ("rich", "pygments")
"""What structlog and httpx load where it is installed, as it is for the CLI, and pyswarmd never uses: 3 MiB, 50 ms."""

_DESCRIPTION = """The pyswarm daemon: one per node. It serves the Docker Engine API on RUNTIME_DIR/pyswarm.sock,
runs this node's tasks, and on managers the cluster. Stopping it stops no container."""
_EXAMPLES = """examples:
  pyswarmd                                            # on each machine, as root; then: pyswarm swarm init | join
  pyswarmd --insecure-registry 10.0.0.0/8             # images from registries there may come over plain HTTP
  pyswarmd --data-dir /srv/b --runtime-dir /run/b     # a second daemon on the same machine"""


def parse_arguments(arguments: list[str]) -> tuple[DaemonConfig, str]:
    """Return the settings and the log level that the command line gives."""
    parser = argparse.ArgumentParser(
        prog="pyswarmd", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="what must last (default: %(default)s)")
    parser.add_argument("--runtime-dir", type=Path, default=DEFAULT_RUNTIME_DIR, help="sockets and mounts (default: %(default)s)")
    parser.add_argument(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST[:PORT]|CIDR",
        help="a registry that may be asked over plain HTTP; may be given several times",
    )
    parser.add_argument("--hostname", default="", help="the node's name, if it shall not be the machine's host name")
    parser.add_argument(
        "--advertise-addr",
        default="",
        metavar="IP|INTERFACE",
        help="the node's new address, if it changed since it joined and cannot be found out; init and join have their own option",
    )
    parser.add_argument(
        "--generic-resource",
        action="append",
        default=[],
        metavar="KIND=NAME|KIND=NUMBER",
        help="what this machine has for services to reserve, such as gpu=uuid1 or ssd=4; may be given several times",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--version", action="version", version=f"pyswarmd {ENGINE_VERSION}")
    parsed = parser.parse_args(arguments)
    config = DaemonConfig(
        data_dir=parsed.data_dir,
        runtime_dir=parsed.runtime_dir,
        insecure_registries=tuple(parsed.insecure_registry),
        hostname=parsed.hostname,
        advertise_address=parsed.advertise_addr,
        generic_resources=_generic_resources(parser, parsed.generic_resource),
    )
    return config, parsed.log_level


def _generic_resources(parser: argparse.ArgumentParser, declarations: list[str]) -> tuple[GenericResource, ...]:
    try:
        return parse_generic_resources(declarations)
    except InvalidArgument as error:
        parser.error(error.message)


def refuse_unused_extras() -> None:
    """Make imports of `UNUSED_EXTRAS` fail in this process, as if they were not installed."""
    for name in UNUSED_EXTRAS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None there is Python's way to refuse an import


def main() -> None:
    """Entry point of `pyswarmd`."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we only fork to exec; its handlers would complain at each fork
    refuse_unused_extras()
    config, log_level = parse_arguments(sys.argv[1:])
    try:
        if os.geteuid() != 0:
            raise PyswarmError("pyswarmd must run as root: it makes namespaces, mounts and network devices")
        config.check()
        from pyswarm_node.running import run_daemon  # after the refusal, and only when there is something to run

        run_daemon(config, log_level)
    except PyswarmError as error:
        sys.exit(f"pyswarmd: {error.message}")
