"""Which tests the machine with version 2 cgroups, on Debian's kernel, runs, and what pytest is told there. Pure."""

from collections.abc import Callable, Sequence

QUICK = ("test_runtime_contract", "test_spec_limits", "test_statistics", "test_kernel_features", "sctp_ports")
NETWORKS = (
    *("test_kernel_features", "sctp_ports", "test_netplugin_contract", "test_netplugin_overlay", "test_mesh_contract"),
    *("test_mesh_clients", "test_mesh_gateway", "test_vip_balancing", "test_overlay_ipv6", "test_overlay_isolation"),
    *("test_overlay_mtu", "test_overlay_subnets", "test_encrypted_overlay"),
)
CONTAINERS = (
    *("test_runtime_contract", "test_runtime_process", "test_runtime_adoption", "test_runtime_isolation", "test_isolation_escapes"),
    *("test_spec_limits", "test_spec_privileges", "test_spec_devices", "test_spec_mounts", "test_exec", "test_attach"),
    *("test_statistics", "test_access_contract", "test_access_clients", "test_task_faults", "test_health", "test_slow_starts"),
    *("test_docker_run", "test_local_containers"),
)
FOLDER = "tests/kernel"
TOO_LONG = (f"{FOLDER}/test_mesh_contract.py::test_a_plan_that_was_cut_off_after_any_operation_converges",)
"""What does many times the same, elsewhere in half a minute."""
SLOWNESS = 10
"""How many times longer than elsewhere a test may wait there."""
TEST_LIMIT_S = 300


def pytest_arguments(names: Sequence[str], given: Sequence[str], exists: Callable[[str], bool]) -> list[str]:
    """Return what pytest is given: the tests `names`, unless one of the arguments `given` is a file or folder itself."""
    settings = {"slowness": SLOWNESS, "timeout": TEST_LIMIT_S, "faulthandler_timeout": TEST_LIMIT_S // 2}
    limits = ["-p", "slow_machine", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
    has_files = any(exists(argument.partition("::")[0]) for argument in given)
    usual = [*(f"--deselect={test}" for test in TOO_LONG), *(f"{FOLDER}/{name}.py" for name in names)]
    return ["-q", "--durations=5", *limits, *([] if has_files else usual), *given]
