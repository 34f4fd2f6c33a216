"""Starts a container: root filesystem, bundle, monitor, process. Blocking; each start has a thread of its own.

Where the root filesystem is mounted, and why. The thread gives itself a private mount namespace and mounts the overlay
only there; conmon and the container inherit it. The host's mount table never shows it. So a SIGKILL of the daemon at any
moment leaves no mount behind, a container's mounts go away with its last process, nothing keeps an image layer or a
writable layer busy, and after a power cut there are only files to clean. Whoever needs the files of a running container
finds them in `/proc/<pid>/root`; those of an ended one are the image's layers and the writable one. (Docker mounts in
the host's table, and has lived with leaked mounts and EBUSY.) The namespace is a slave of the host's: what the host
unmounts does not stay busy here.

**Private mounts**: what is this container's alone is mounted in the same namespace, and so goes the same way. Its secrets and
configs are files of a tmpfs (`private_files`); its volumes' own file systems, and folders of volumes, are mounted there, and empty
volumes filled (`volume_mounts`). Binds that hand mounts on to the host are copied before the namespace is made (`propagation`).

In the same namespace we hide what would disturb: the version 2 cgroup tree of hybrid machines, which crun 1.8 refuses to
work beside, and the folder of all other containers' network namespaces, lest n containers' namespaces hold n² mounts.

conmon gets a session, cgroup and standard streams of its own, so that nothing which ends the daemon ends it.
"""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pyswarm_agent.runtime import kernel_calls
from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_agent.runtime.host import Host
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.log_arguments import monitor_log_arguments
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.private_files import PrivateFile, mount_private_files
from pyswarm_agent.runtime.process_user import ProcessUser, resolve_user
from pyswarm_agent.runtime.processes import ProcessIdentity, identify
from pyswarm_agent.runtime.propagation import attach_copies, copied_sources, ready_sources
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_agent.runtime.start_errors import container_start_failed
from pyswarm_agent.runtime.volume_mounts import prepared_volumes
from pyswarm_common.failpoints import failpoint

START_TIMEOUT_S = 60.0
_ACCOUNT_FILE_LIMIT_BYTES = 4 * 1024 * 1024
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TZ": "UTC"}

SpecWriter = Callable[[ProcessUser, str | None, Mapping[str, str]], bytes]
"""Makes config.json from the process's user and, as the bundle sees them, paths of the network namespace and of shared sources."""


class Launched(NamedTuple):
    """What runs after a start."""

    process: ProcessIdentity
    monitor: ProcessIdentity


class SyncMessage(msgspec.Struct):
    """What conmon says once the OCI runtime has made the container, or could not."""

    data: int
    message: str = ""


def launch(
    config: ContainerConfig,
    paths: ContainerPaths,
    host: Host,
    cgroups: Cgroups,
    write_spec: SpecWriter,
    files: Sequence[PrivateFile] = (),
    before_start: Callable[[], None] = lambda: None,
) -> Launched:
    """Start the container and return its processes. Must run in a thread made for it (see `in_new_thread`).

    `before_start` is called when the monitor offers the container's streams and its process does not run yet.

    Raises ContainerStartFailed, InvalidArgument (unknown user) or OSError; then the caller cleans up.
    """
    ready_sources(config.mounts)
    with cgroups.monitor_entrance() as enter_monitor_cgroup, copied_sources(config.mounts) as copies:
        netns_path = _enter_own_mounts(config, paths, host)
        _mount_rootfs(config, paths)
        mount_private_files(files, paths.private_files)
        user = resolve_user(config.user, config.groups, *_account_files(str(paths.rootfs)))
        shared_sources = attach_copies(copies, paths.bundle / "shared")
        with prepared_volumes(config, paths):
            failpoint("container/volumes-filled")
            (paths.bundle / "config.json").write_bytes(write_spec(user, netns_path, shared_sources))
            pid = _create(config, paths, host, enter_monitor_cgroup)
    launched = _identify(pid, paths)
    failpoint("container/made")
    before_start()
    _run_oci_start(config, paths, host)
    failpoint("container/started")
    return launched


def _enter_own_mounts(config: ContainerConfig, paths: ContainerPaths, host: Host) -> str | None:
    """Give the thread its mount namespace and the container its files; return where its network namespace is found there."""
    kernel_calls.unshare_mounts()
    if host.hidden_hierarchy is not None:
        kernel_calls.unmount(str(host.hidden_hierarchy))
    _write_bundle_files(config, paths)
    paths.make_writable_layer(keeps=config.keeps_layer)
    return _bind_netns(config.netns_path, paths)


def _write_bundle_files(config: ContainerConfig, paths: ContainerPaths) -> None:
    for directory in (paths.rootfs, paths.exit_dir, paths.oci_root):
        directory.mkdir(parents=True, exist_ok=True)
    paths.bundle.chmod(0o700)
    for name, text in (("resolv.conf", config.resolv_conf), ("hosts", config.hosts), ("hostname", f"{config.hostname}\n")):
        (paths.bundle / name).write_text(text)
        (paths.bundle / name).chmod(0o644)


def _bind_netns(netns_path: str | None, paths: ContainerPaths) -> str | None:
    if netns_path is None:
        return None
    paths.netns.touch()
    kernel_calls.mount(netns_path, str(paths.netns), flags=kernel_calls.MS_BIND)
    folder = Path(netns_path).parent
    if not paths.bundle.is_relative_to(folder):
        kernel_calls.unmount(str(folder))
    return str(paths.netns)


def _mount_rootfs(config: ContainerConfig, paths: ContainerPaths) -> None:
    # The thread's working directory is its own since it left the common mount namespace.
    os.chdir(paths.home)
    lower = ":".join(f"layers/{number}" for number in range(len(config.layer_paths)))
    options = f"lowerdir={lower},upperdir=upper,workdir=work"
    if not config.keeps_layer:
        # A task's writable layer does not outlive a power cut (the task is run anew): syncing the host's disk for it is waste.
        with contextlib.suppress(OSError):
            kernel_calls.mount("overlay", str(paths.rootfs), "overlay", 0, f"{options},volatile")
            return
    kernel_calls.mount("overlay", str(paths.rootfs), "overlay", 0, options)


def _account_files(rootfs: str) -> tuple[str, str]:
    def text(path: str) -> str:
        return (kernel_calls.read_in_root(rootfs, path, _ACCOUNT_FILE_LIMIT_BYTES) or b"").decode(errors="replace")

    return text("etc/passwd"), text("etc/group")


def _create(config: ContainerConfig, paths: ContainerPaths, host: Host, enter_monitor_cgroup: Callable[[int], None]) -> int:
    """Run conmon, which runs `crun create`; return the container's process."""
    sync_read, sync_write = os.pipe()
    start_read, start_write = os.pipe()
    descriptors = [sync_read, sync_write, start_read, start_write]
    try:
        with subprocess.Popen(
            _monitor_command(config, paths, host),
            cwd=paths.bundle,
            env={**_ENVIRONMENT, "_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)},
            pass_fds=(sync_write, start_read),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            for descriptor in (sync_write, start_read):
                os.close(descriptor)
                descriptors.remove(descriptor)
            complaint = _let_monitor_work(process, enter_monitor_cgroup, start_write)
        answer = _read_all(sync_read, time.monotonic() + START_TIMEOUT_S)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return _created_pid(config, answer, complaint)


def _let_monitor_work(process: "subprocess.Popen[bytes]", enter_monitor_cgroup: Callable[[int], None], start_write: int) -> str:
    """Return what conmon complains of, once it has gone into the background, which it does by forking once more."""
    try:
        failpoint("container/monitor-begun")
        enter_monitor_cgroup(process.pid)
        os.write(start_write, b"\0")
        return process.communicate(timeout=START_TIMEOUT_S)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        raise _too_slow("create") from None
    except BaseException:
        # It may not be in the monitors' cgroup, where those who clean up look for it.
        process.kill()
        raise


def _created_pid(config: ContainerConfig, answer: bytes, complaint: str) -> int:
    try:
        message = msgspec.json.decode(answer, type=SyncMessage)
    except msgspec.DecodeError:
        reason = complaint.strip() or "it was killed, or ended without a word"
        raise ContainerStartFailed(f"the container's monitor (conmon) failed: {reason}") from None
    if message.data <= 0:
        raise container_start_failed(message.message or complaint, config.args)
    return message.data


def _monitor_command(config: ContainerConfig, paths: ContainerPaths, host: Host) -> list[str]:
    command = [str(host.conmon), "--api-version", "1", "--cid", config.id, "--cuuid", config.id, "--name", config.id[:12]]
    command += ["--runtime", str(host.oci_runtime), "--runtime-arg", f"--root={paths.oci_root}", "--bundle", str(paths.bundle)]
    command += ["--container-pidfile", str(paths.bundle / "pid"), "--conmon-pidfile", str(paths.bundle / "conmon.pid")]
    command += ["--exit-dir", str(paths.exit_dir), *monitor_log_arguments(config, paths), "--full-attach"]
    if config.open_stdin:
        command += ["--stdin"] if config.stdin_once and not config.tty else ["--stdin", "--leave-stdin-open"]
    return [*command, "--terminal"] if config.tty else command


def _read_all(descriptor: int, deadline_s: float) -> bytes:
    """Return everything up to a newline or the end. Raises ContainerStartFailed when that takes too long."""
    data = b""
    while not data.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            raise _too_slow("create")
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        data += chunk
    return data


def _identify(pid: int, paths: ContainerPaths) -> Launched:
    process = identify(pid)
    monitor = identify(int((paths.bundle / "conmon.pid").read_text()))
    if process is None or monitor is None:
        raise ContainerStartFailed("the container's process or its monitor ended before it was started")
    return Launched(process, monitor)


def _run_oci_start(config: ContainerConfig, paths: ContainerPaths, host: Host) -> None:
    command = [str(host.oci_runtime), f"--root={paths.oci_root}", "start", config.id]
    try:
        result = subprocess.run(
            command,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow("start") from None
    if result.returncode != 0:
        raise container_start_failed(result.stderr.decode(errors="replace"), config.args)


def _too_slow(what: str) -> ContainerStartFailed:
    return ContainerStartFailed(
        f"the OCI runtime did not {what} the container in {START_TIMEOUT_S:g} s: is a disk, or a file server that it mounts, slow?"
    )
