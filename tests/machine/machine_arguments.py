"""Which tests the machine with version 2 cgroups runs, and what pytest is told there. Pure."""

from collections.abc import Callable, Sequence

QUICK = ("test_runtime_contract", "test_spec_limits", "test_statistics")
CONTAINERS = (
    *("test_runtime_contract", "test_runtime_process", "test_runtime_adoption", "test_runtime_isolation", "test_isolation_escapes"),
    *("test_spec_limits", "test_spec_privileges", "test_spec_devices", "test_spec_mounts", "test_exec", "test_attach"),
    *("test_statistics", "test_access_contract", "test_access_clients", "test_task_faults", "test_health", "test_slow_starts"),
    *("test_docker_run", "test_local_containers", "test_encrypted_overlay"),
)
FOLDER = "tests/kernel"
SLOWNESS = 10
"""How many times longer than elsewhere a test may wait there."""
TEST_LIMIT_S = 300


def pytest_arguments(names: Sequence[str], given: Sequence[str], exists: Callable[[str], bool]) -> list[str]:
    """Return what pytest is given: the tests `names`, unless one of the arguments `given` is a file or folder itself."""
    settings = {"slowness": SLOWNESS, "timeout": TEST_LIMIT_S, "faulthandler_timeout": TEST_LIMIT_S // 2}
    limits = ["-p", "slow_machine", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
    has_files = any(exists(argument.partition("::")[0]) for argument in given)
    return ["-q", "--durations=5", *limits, *([] if has_files else (f"{FOLDER}/{name}.py" for name in names)), *given]
