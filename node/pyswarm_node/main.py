"""`pyswarmd`: reads the options and prepares the process; everything heavy is loaded after that, with `running`."""

import argparse
import os
import sys
from pathlib import Path

from pyswarm_agent.images.settings import CollectorSettings
from pyswarm_common.amounts import parse_duration_ns
from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_common.generic_resources import parse_generic_resources
from pyswarm_common.log_drivers import DEFAULT_DRIVER, DRIVERS
from pyswarm_common.objects import NodePermissions
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
    _add_image_options(parser)
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
    _add_permissions(parser)
    _add_container_logs(parser)
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--version", action="version", version=f"pyswarmd {ENGINE_VERSION}")
    parsed = parser.parse_args(arguments)
    config = DaemonConfig(
        data_dir=parsed.data_dir,
        runtime_dir=parsed.runtime_dir,
        insecure_registries=tuple(parsed.insecure_registry),
        registry_mirrors=tuple(parsed.registry_mirror),
        image_gc=_image_gc(parser, parsed.image_gc_disk_percent, parsed.image_gc_age),
        hostname=parsed.hostname,
        advertise_address=parsed.advertise_addr,
        generic_resources=_generic_resources(parser, parsed.generic_resource),
        log_driver=parsed.log_driver,
        log_options=_log_options(parser, parsed.log_opt),
        permissions=NodePermissions(
            allows_privileged=parsed.allow_privileged,
            devices=tuple(parsed.allow_device),
            cdi_devices=tuple(parsed.allow_cdi),
        ),
    )
    return config, parsed.log_level


def _add_container_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-driver",
        default=DEFAULT_DRIVER,
        metavar="DRIVER",
        help=f"what becomes of the output of containers that do not say it: {', '.join(DRIVERS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--log-opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of that driver, such as max-size=10m or max-file=3 (json-file keeps 5 files of 100 MB unless told "
        "otherwise; max-size=-1 is no limit); may be given several times",
    )


def _log_options(parser: argparse.ArgumentParser, options: list[str]) -> dict[str, str]:
    for option in options:
        if "=" not in option:
            parser.error(f"--log-opt {option}: an option is given as NAME=VALUE")
    return dict(option.split("=", 1) for option in options)


def _add_permissions(parser: argparse.ArgumentParser) -> None:
    """What services get of this machine only if its operator says so: each of these can be as much as root on it."""
    parser.add_argument("--allow-privileged", action="store_true", help="let services run privileged containers here")
    parser.add_argument(
        "--allow-device",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a device that services may have, such as /dev/kvm or '/dev/dri/*'; may be given several times",
    )
    parser.add_argument(
        "--allow-cdi",
        action="append",
        default=[],
        metavar="PATTERN",
        help="devices of the Container Device Interface that services may have, such as 'nvidia.com/gpu=*'; several times, too",
    )


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry-mirror",
        action="append",
        default=[],
        metavar="URL",
        help="a mirror that is asked for Docker Hub's images before it; may be given several times",
    )
    parser.add_argument(
        "--image-gc-disk-percent",
        default="85:80",
        metavar="HIGH:LOW",
        help="when the disk of the images is fuller than HIGH %%, those that nothing uses and a registry can give again go until "
        "it is at LOW %% (default: %(default)s; 100:0: never)",
    )
    parser.add_argument(
        "--image-gc-age",
        default="0",
        metavar="DURATION",
        help="remove such images also when they were not used for so long, for example 720h (default: never)",
    )


def _image_gc(parser: argparse.ArgumentParser, percentages: str, age: str) -> CollectorSettings:
    high, _, low = percentages.partition(":")
    try:
        settings = CollectorSettings(int(high), int(low), parse_duration_ns(age) / 1e9)
        settings.check()
    except ValueError as error:
        parser.error(f"--image-gc-disk-percent takes HIGH:LOW such as 85:80, --image-gc-age a duration such as 720h ({error})")
    except InvalidArgument as error:
        parser.error(error.message)
    return settings


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
