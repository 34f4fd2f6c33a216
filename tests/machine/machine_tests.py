"""Runs kernel tests in a machine of its own, under QEMU's plain emulation, where cgroups are version 2 alone.

scripts/test-machine                                  the tests that concern containers
scripts/test-machine --oci-runtime runc tests/kernel/test_runtime_contract.py -k stop
"""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine_arguments import CONTAINERS, NETWORKS, QUICK, pytest_arguments
from machine_image import MachineImage, MissingPackage
from tests_image import REPOSITORY, build_tests_image, write_repository

CACHE = REPOSITORY / ".cache" / "machine"
_NO_RESULT = 70
_EXIT = re.compile(r"MACHINE \S+ exit (\d+)")
_KERNEL_OPTIONS = "console=ttyS0 quiet loglevel=1 mitigations=off panic=-1 cgroup_no_v1=all"


def main() -> int:
    """Run the tests; return pytest's exit code, or 70 when the machine ended without one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_NO_RESULT))  # what is open is closed then
    options, rest = _parse(sys.argv[1:])
    try:
        image = build_tests_image(CACHE)
    except MissingPackage as error:
        print(f"scripts/test-machine: {error}", file=sys.stderr)
        return _NO_RESULT
    names = QUICK if options.quick else NETWORKS if options.networks else (*CONTAINERS, *NETWORKS)
    arguments = pytest_arguments(names, rest, lambda name: (REPOSITORY / name).exists())
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as temporary:
        drive = Path(temporary) / "repository.img"
        write_repository(drive, Path(temporary) / "repository", options.oci_runtime, arguments)
        return _run(image, drive, options.limit_s)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test-machine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only those tests that tell most in a minute")
    parser.add_argument("--networks", action="store_true", help="only those of the data plane")
    parser.add_argument("--oci-runtime", choices=("crun", "runc"), default="crun", help="which one the machine has (crun)")
    parser.add_argument("--limit-s", type=float, default=5400.0, help="when to switch the machine off")
    parser.epilog = "What else is given goes to pytest; with a file or folder, instead of the usual files."
    return parser.parse_known_args(arguments)


def _run(image: MachineImage, drive: Path, limit_s: float) -> int:
    code = _NO_RESULT
    with _machine(image, drive) as process:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            for line in _lines(process):
                print(line, flush=True)
                if found := _EXIT.match(line):
                    code = int(found.group(1))
        finally:
            timer.cancel()
    return code


@contextlib.contextmanager
def _machine(image: MachineImage, drive: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield the machine, switched on; what it writes to its console is its output. Afterwards it is off."""
    disks = [
        option
        for name, path in (("root", image.root), ("repository", drive))
        for option in ("-drive", f"file={path},format=raw,readonly=on,if=none,id={name}", "-device", f"virtio-blk-pci,drive={name}")
    ]
    command = [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max", "-smp", "2", "-m", "3072", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", _KERNEL_OPTIONS, "-serial", "stdio", *disks),
        *("-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.decode(errors="replace").rstrip("\r\n")


if __name__ == "__main__":
    sys.exit(main())
