"""A machine under QEMU's plain emulation, on a disk whose power can be cut."""

import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from machine_image import MachineImage

API_PORT = 2375
_KERNEL_OPTIONS = "console=ttyS0 quiet mitigations=off panic=-1"
_REPAIR = re.compile(r"^MACHINE \S+ fsck (\d+)", re.MULTILINE)
_GAVE_UP = re.compile(r"^MACHINE \S+ FAILED|Kernel panic", re.MULTILINE)


class MachineFailed(Exception):
    """The machine did not come up, or pyswarmd ended in it. Its text has the end of the console."""


class Machine:
    """One run of the machine, from power-on to power-off. Use it as a context manager; leaving it switches it off."""

    def __init__(self, image: MachineImage, disk_socket: Path, console: Path) -> None:
        self._image = image
        self._disk_socket = disk_socket
        self._console = console
        self._started_s = 0.0
        self._process: subprocess.Popen[bytes]
        self.api_port = 0

    def __enter__(self) -> "Machine":
        self._console.write_bytes(b"")
        self._started_s = time.monotonic()
        self.api_port = _free_port()
        with self._console.open("ab") as errors:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stderr=errors)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.switch_off()

    @property
    def age_s(self) -> float:
        """Seconds since it was switched on."""
        return time.monotonic() - self._started_s

    def switch_off(self) -> None:
        """Take its power; nothing in it hears of it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def was_repaired(self) -> bool:
        """Whether e2fsck had more to do at this boot than to replay the journal."""
        found = _REPAIR.search(self._console.read_text(errors="replace"))
        return found is not None and found.group(1) != "0"

    def check(self) -> None:
        """Raises MachineFailed when it is gone, or when its first process gave up."""
        console = self._console.read_text(errors="replace")
        if self._process.poll() is not None or _GAVE_UP.search(console):
            raise MachineFailed(f"the machine failed after {self.age_s:.1f} s:\n{console[-6000:]}")

    def _command(self) -> list[str]:
        drives = {
            "root": f"file={self._image.root},format=raw,readonly=on",
            "data": f"file=nbd+unix:///?socket={self._disk_socket},format=raw,cache=writeback",
        }
        disks = [
            option
            for name, drive in drives.items()
            for option in ("-drive", f"{drive},if=none,id={name}", "-device", f"virtio-blk-pci,drive={name}")
        ]
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.api_port}-:{API_PORT}"
        return [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "1024", "-no-reboot"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", _KERNEL_OPTIONS),
            *("-serial", f"file:{self._console}"),
            *disks,
            *("-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="),
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
