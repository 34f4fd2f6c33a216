"""Turns a container's configuration into the OCI runtime's, with what this host can give; says once what it cannot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pyswarm_agent.runtime import apparmor
from pyswarm_agent.runtime.block_io import block_io, find_block_devices
from pyswarm_agent.runtime.capabilities import DEFAULT_CAPABILITIES, container_capabilities
from pyswarm_agent.runtime.cdi import find_edits, with_edits
from pyswarm_agent.runtime.cdi_files import find_host_device, read_folders
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.device_nodes import all_devices, find_devices
from pyswarm_agent.runtime.host import WANTED_OPEN_FILES, Host
from pyswarm_agent.runtime.limit_checks import Abilities, check_cpuset, limit_warnings
from pyswarm_agent.runtime.live_limits import LimitWrite, limit_writes
from pyswarm_agent.runtime.log_arguments import check_log_config
from pyswarm_agent.runtime.oci_mounts import INIT_SOURCE
from pyswarm_agent.runtime.oci_resources import resources
from pyswarm_agent.runtime.oci_spec import Confinement, Placement, build_oci_spec
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.process_limits import oom_score, process_limits
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_agent.runtime.seccomp_compile import SeccompCache
from pyswarm_agent.runtime.seccomp_custom import Facts, custom_seccomp, decode_profile
from pyswarm_agent.runtime.seccomp_profile import oci_seccomp, profile_rules
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_agent.runtime.sysctls import namespaced_sysctls
from pyswarm_common.errors import InvalidArgument

UNCONFINED = "unconfined"
_log = structlog.get_logger()


class SpecMaker:
    """Makes config.json for the containers of one host. `prepare` first."""

    def __init__(self, host: Host, cgroups: Cgroups, seccomp_directory: Path) -> None:
        self._host = host
        self._cgroups = cgroups
        self._seccomp = SeccompCache(seccomp_directory, host.machine)
        self._limits_swap = False
        self._weight_file: str | None = None
        self._has_apparmor = False
        self._told: set[str] = set()

    def prepare(self) -> None:
        """Look at the cgroups and compile what most containers need. Blocking. Raises OSError."""
        self._limits_swap = self._cgroups.supports_swap_limit()
        self._weight_file = self._cgroups.block_weight_file()
        if self._host.is_crun:
            self._seccomp.program_base64(DEFAULT_CAPABILITIES & self._host.capabilities)
        if self._host.open_files_limit < WANTED_OPEN_FILES:
            self._tell_once(f"containers can open {self._host.open_files_limit} files, the most that this host allows")
        if apparmor.is_enabled():
            trouble = apparmor.load_profile()
            self._has_apparmor = not trouble
            if trouble:
                self._tell_once(f"containers run without an AppArmor profile: {trouble}")

    def check(self, config: ContainerConfig) -> None:
        """Raise InvalidArgument when the container cannot be run on this host, or on any. (Sources of binds: `bind_sources`.)"""
        signal_number(config.stop_signal)
        check_log_config(config.log)
        container_capabilities(config.cap_add, config.cap_drop, self._host.capabilities)
        if not config.args:
            raise InvalidArgument("no command specified")
        if not config.layer_paths:
            raise InvalidArgument(f"the image {config.image} has no layers")
        if config.init and not Path(INIT_SOURCE).exists():
            raise InvalidArgument(f"this host has no init for containers: {INIT_SOURCE} is missing (Debian: apt-get install tini)")
        namespaced_sysctls(config.sysctls, has_network=config.netns_path is not None)
        process_limits(config, self._host)
        find_block_devices(config.block_limits)
        self.check_limits(config)
        if config.seccomp not in ("", UNCONFINED):
            decode_profile(config.seccomp)

    def check_limits(self, config: ContainerConfig) -> None:
        """Raise InvalidArgument when this host has not what the limits name."""
        check_cpuset("CPUs", config.cpuset_cpus, self._cgroups.available("cpuset.cpus"))
        check_cpuset("memory nodes", config.cpuset_mems, self._cgroups.available("cpuset.mems"))

    def limit_writes(self, before: ContainerConfig, after: ContainerConfig) -> list[LimitWrite]:
        """Return what of a container's cgroup changes with its limits. Raises InvalidArgument."""
        if (before.cpuset_cpus, before.cpuset_mems) != (after.cpuset_cpus, after.cpuset_mems):
            self.check_limits(after)
        is_unified = self._host.layout.is_unified
        old, new = (
            {
                **resources(config, (), limits_swap=self._limits_swap, is_unified=is_unified),
                "blockIO": {"weight": config.block_weight} if config.block_weight else {},
            }
            for config in (before, after)
        )
        return limit_writes(old, new, is_unified=is_unified, weight_file=self._weight_file)

    def warnings_about(self, config: ContainerConfig) -> list[str]:
        """Return which of the limits this host cannot keep, in Docker's words."""
        return limit_warnings(config, self._abilities())

    def _abilities(self) -> Abilities:
        return Abilities(self._limits_swap, not self._host.layout.is_unified, self._weight_file is not None)

    def _block_io(self, config: ContainerConfig) -> dict[str, Any]:
        return block_io(config, find_block_devices(config.block_limits), has_weights=self._weight_file is not None)

    def make(
        self,
        config: ContainerConfig,
        paths: ContainerPaths,
        user: ProcessUser,
        netns_path: str | None,
        shared_sources: Mapping[str, str],
    ) -> bytes:
        """Return config.json. Raises InvalidArgument, OSError."""
        spec = build_oci_spec(
            config,
            host=self._host,
            user=user,
            confinement=self._confinement(config),
            placement=Placement(paths.bundle, netns_path, self._cgroups.path_of(config.id), shared_sources),
            devices=all_devices() if config.is_privileged else find_devices(config.devices),
            limits_swap=self._limits_swap,
        )
        if found := self._block_io(config):
            spec["linux"]["resources"]["blockIO"] = found
        if config.cdi_devices:
            spec = with_edits(spec, find_edits(config.cdi_devices, read_folders()), find_host_device)
        self._tell_what_is_less(config)
        return msgspec.json.encode(spec)

    def _confinement(self, config: ContainerConfig) -> Confinement:
        if config.is_privileged:
            return Confinement(self._host.capabilities)
        held, missing = container_capabilities(config.cap_add, config.cap_drop, self._host.capabilities)
        for name in sorted(missing):
            self._tell_once(f"this host cannot give containers {name}")
        program, rules = self._seccomp_of(config, held)
        return Confinement(held, program, rules, self._apparmor_of(config))

    def _seccomp_of(self, config: ContainerConfig, held: frozenset[str]) -> tuple[str | None, dict[str, Any] | None]:
        machine = self._host.machine
        if config.seccomp == UNCONFINED:
            return None, None
        if config.seccomp:
            return None, custom_seccomp(decode_profile(config.seccomp), Facts(held, machine, self._host.kernel_release))
        if self._host.is_crun:
            return self._seccomp.program_base64(held), None
        return None, oci_seccomp(profile_rules(held, machine), machine)

    def _apparmor_of(self, config: ContainerConfig) -> str:
        if config.apparmor == UNCONFINED or not self._has_apparmor:
            return ""
        return config.apparmor or apparmor.PROFILE_NAME

    def _tell_what_is_less(self, config: ContainerConfig) -> None:
        for complaint in process_limits(config, self._host)[1]:
            self._tell_once(complaint)
        if oom_score(config, self._host) > config.oom_score_adj < 0:
            self._tell_once(f"containers' oom_score_adj is at least {self._host.lowest_oom_score} on this host")
        for complaint in self.warnings_about(config):
            self._tell_once(complaint)

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("runtime.limited", what=what)
