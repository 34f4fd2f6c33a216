"""A container's log configuration: what holds for it on this node, and what conmon is told to do with its output."""

import msgspec

from pyswarm_agent.runtime.log_journal import JOURNAL_SOCKET, NO_JOURNAL
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.records import ContainerConfig, LogConfig
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.log_drivers import DEFAULT_DRIVER, check_log_driver, expand_tag, log_attributes, merged_log_options

SHORT_ID_LENGTH = 12


def with_log_default(config: ContainerConfig, default: LogConfig) -> ContainerConfig:
    """Return the configuration with the log that holds for it on a node with this default.

    Raises InvalidArgument, in Docker's words.
    """
    name, options = merged_log_options(config.log.driver, config.log.options, default.driver, default.options)
    return msgspec.structs.replace(config, log=LogConfig(driver=name, options=options))


def check_log_config(config: LogConfig) -> None:
    """Raise InvalidArgument when a container cannot be run with it on this host."""
    check_log_driver(config.driver or DEFAULT_DRIVER, config.options)
    if config.driver == "journald" and not JOURNAL_SOCKET.exists():
        raise InvalidArgument(NO_JOURNAL)


def monitor_log_arguments(config: ContainerConfig, paths: ContainerPaths) -> list[str]:
    """Return the arguments that tell conmon where the output goes. `--no-sync-log`: it shall not wait for the disk at the end."""
    match config.log.driver:
        case "none":
            return ["--log-path", "off"]
        case "journald":
            tag = container_tag(config)
            return ["--log-path", "journald", *(["--log-tag", tag] if tag else [])]
    return ["--log-path", f"k8s-file:{paths.log}", "--no-sync-log"]


def container_tag(config: ContainerConfig) -> str:
    """Return the tag that the log options give the container, "" for none."""
    values = {
        "ID": config.id[:SHORT_ID_LENGTH],
        "FullID": config.id,
        "Name": config.name,
        "ImageID": config.image_id.removeprefix("sha256:")[:SHORT_ID_LENGTH],
        "ImageFullID": config.image_id,
        "ImageName": config.image,
        "DaemonName": "pyswarm",
    }
    return expand_tag(config.log.options.get("tag", ""), values.get)


def container_log_attributes(config: ContainerConfig) -> dict[str, str]:
    """Return what `logs --details` shows before each line."""
    return log_attributes(config.log.options, config.labels, config.env, container_tag(config))
