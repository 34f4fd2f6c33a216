"""Builds the machine that the power is taken from: Debian's cloud kernel, a root file system of this host's own packages, pyswarm.

    <folder>/vmlinuz      the kernel, from its package, which is downloaded and unpacked but not installed
    <folder>/initrd.gz    busybox, the virtio drivers, and a script that mounts the root file system
    <folder>/root.img     ext4, mounted read-only: Python, etcd, crun, nftables … as they are here, and pyswarm with what it imports

The same inputs are built once: a stamp in the folder names them. Nothing here needs root.
"""

import gzip
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from image_builder import PackageCache
from packaging.requirements import Requirement

from pyswarm_netplugin.kernel.features import MODULES

POWER = Path(__file__).resolve().parent
REPOSITORY = POWER.parents[1]
PRODUCT = ("common", "manager", "agent", "netplugin", "cli", "node")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
GUEST_PACKAGES = (
    *("conmon", "crun", "e2fsprogs", "etcd-server", "iproute2", "libnftables1", "libseccomp2", "nftables", "python3"),
    *("mount", "util-linux"),
    *("libgcc-s1", "libstdc++6", "zlib1g"),  # what compiled Python packages link to
)
UNUSED = re.compile(
    r"usr/(share/(?!misc)|include/|lib/(python3\.\d+/(test|idlelib|ensurepip|lib2to3|tkinter)|udev|systemd)/|games/)"
)
FIRST_MODULES = ("virtio_pci", "virtio_blk")
LATER_MODULES = (
    *("virtio_net", "br_netfilter", "overlay", *MODULES),
    *("nft_fib_inet", "nft_redir", "sctp"),
)
SITE = "opt/pyswarm"
_ROOM_BYTES = 32 << 20


@dataclass(frozen=True)
class MachineImage:
    """What QEMU is given to boot."""

    kernel: Path
    initrd: Path
    root: Path


class MissingPackage(Exception):
    """A Debian package that the machine is made of is not installed here. Its text names it and says what to do."""


def build_image(folder: Path, product: Path = REPOSITORY) -> MachineImage:
    """Return the machine's files in `folder`, built anew when packages or pyswarm have changed. Raises MissingPackage."""
    return build_once(folder, _inputs(product), lambda target, tree, kernel: _write_root(target, tree, kernel, product))


def build_once(folder: Path, inputs: str, write_root: Callable[[Path, Path, Path], None]) -> MachineImage:
    """Return a machine's files in `folder`, built anew when `inputs` are others than at the last time. Raises MissingPackage.

    `write_root(target, tree, kernel)` makes the root file system's image, with the new folder `tree` to fill; it finds the unpacked
    kernel's package in `kernel`.
    """
    if platform.machine() != "x86_64":
        raise MissingPackage("the machine runs this host's own programs on an emulated x86-64: it needs a host of that kind")
    folder.mkdir(parents=True, exist_ok=True)
    image = MachineImage(folder / "vmlinuz", folder / "initrd.gz", folder / "root.img")
    stamp = folder / "stamp"
    if stamp.is_file() and stamp.read_text() == inputs:
        return image
    stamp.unlink(missing_ok=True)
    kernel = _unpacked_kernel(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
        new = Path(temporary)
        shutil.copy(next(kernel.glob("boot/vmlinuz-*")), new / image.kernel.name)
        _write_initrd(new / image.initrd.name, new / "initrd", kernel)
        write_root(new / image.root.name, new / "root", kernel)
        for path in (image.kernel, image.initrd, image.root):
            (new / path.name).rename(path)  # a machine that runs on the former ones goes on
    stamp.write_text(inputs)
    return image


def product_files(product: Path) -> list[Path]:
    """Return pyswarm's own files, relative to `product`."""
    names = (path for part in PRODUCT for path in (product / part).rglob("*") if "__pycache__" not in path.parts)
    return sorted(path.relative_to(product) for path in names if path.is_file())


def _inputs(product: Path) -> str:
    digest = hashlib.sha256()
    for path in product_files(product):
        digest.update(str(path).encode() + b"\0" + (product / path).read_bytes() + b"\0")
    for path in (Path(__file__), POWER / "guest_init.sh", POWER / "guest_relay.py"):
        digest.update(path.read_bytes())
    digest.update(versions(distributions("pyswarm-cluster"), GUEST_PACKAGES))
    return digest.hexdigest()


def versions(found: Iterable[importlib.metadata.Distribution], packages: Iterable[str]) -> bytes:
    """Return a text that is another when one of these, or a package that `packages` need, is. Raises MissingPackage."""
    shown = subprocess.run(["dpkg-query", "--show", *_closure(packages)], capture_output=True, check=True).stdout
    return repr(sorted(f"{d.name} {d.version}" for d in found)).encode() + shown


def _closure(packages: Iterable[str]) -> list[str]:
    """Return the packages with all they depend on, as they are installed here. Raises MissingPackage."""
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}\t${Package}\t${Pre-Depends}, ${Depends}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = {name: needs for state, name, needs in (line.split("\t") for line in shown.splitlines()) if state == "installed"}
    missing = [name for name in packages if name not in installed]
    if missing:
        raise MissingPackage(f"these Debian packages are missing here: {' '.join(missing)}; install them with scripts/setup")
    found: set[str] = set()
    pending = list(packages)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [n for n in re.findall(r"[a-z0-9][a-z0-9+.-]+(?=[ ,:]|$)", installed[name]) if n in installed]
    return sorted(found)


def distributions(requirement: str) -> list[importlib.metadata.Distribution]:
    """Return what a requirement (`pyswarm-cluster[dev]`) names and needs. Of pyswarm itself this has the metadata alone."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = [Requirement(requirement)]
    while pending:
        wanted = pending.pop()
        distribution = importlib.metadata.distribution(wanted.name)
        if distribution.name not in found:
            found[distribution.name] = distribution
            needs = [Requirement(text) for text in distribution.requires or ()]
            pending += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in ("", *wanted.extras))]
    return [found[name] for name in sorted(found)]


def _unpacked_kernel(folder: Path) -> Path:
    shown = subprocess.run(["apt-cache", "depends", KERNEL_PACKAGE], capture_output=True, text=True, check=True).stdout
    name = re.search(r"Depends: (linux-image-\S+)", shown)
    unpacked = folder / "kernel"
    try:
        (package,) = PackageCache(folder / "packages").fetch([name.group(1) if name else KERNEL_PACKAGE])
    except RuntimeError as error:
        raise MissingPackage(f"the kernel cannot be downloaded: {error}") from error
    shutil.rmtree(unpacked, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
    return unpacked


def modules_in_order(files: dict[str, Path], wanted: tuple[str, ...]) -> list[Path]:
    """Return the kernel modules `wanted` with those that they depend on, in the order to load them. Built-in ones are left out."""
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name)
        if path is not None and path not in ordered:
            found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            for needed in found.group(1).decode().split(",") if found else ():
                add(needed.replace("-", "_"))
            ordered.append(path)

    for name in wanted:
        add(name)
    return ordered


def _install_modules(tree: Path, kernel: Path, wanted: tuple[str, ...], loaded: tuple[str, ...] = ()) -> None:
    """Copy modules to /lib/modules, numbered: a glob gives them in the order to load them. What `loaded` brought is left out."""
    target = tree / "lib/modules"
    target.mkdir(parents=True)
    files = {path.stem.replace("-", "_"): path for path in kernel.rglob("*.ko")}
    before = modules_in_order(files, loaded)
    ordered = [path for path in modules_in_order(files, wanted) if path not in before]
    for number, path in enumerate(ordered):
        shutil.copy(path, target / f"{number:02}-{path.name}")


def _busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        raise MissingPackage("busybox is missing here; install it with scripts/setup")
    return found


def _write_initrd(target: Path, tree: Path, kernel: Path) -> None:
    for folder in ("bin", "dev", "proc", "sys", "root"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(_busybox(), tree / "bin/busybox")
    _install_modules(tree, kernel, FIRST_MODULES)
    (tree / "init").write_text(
        "#!/bin/busybox sh\n"
        "for module in /lib/modules/*; do /bin/busybox insmod $module; done\n"
        "/bin/busybox mount -t devtmpfs dev /dev\n"
        "until [ -b /dev/vdb ]; do /bin/busybox usleep 10000; done\n"
        "/bin/busybox mount -t ext4 -o ro /dev/vda /root\n"
        "exec /bin/busybox switch_root /root /opt/guest_init.sh\n"
    )
    (tree / "init").chmod(0o755)
    target.write_bytes(gzip.compress(b"".join(_cpio(tree)), compresslevel=1))


def _cpio(tree: Path) -> Iterator[bytes]:
    """Yield `tree` as an archive in the format that kernels unpack ("newc")."""
    paths = sorted(tree.rglob("*"))
    entries = [(str(path.relative_to(tree)), path.stat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths]
    entries.append(("TRAILER!!!", 0, b""))
    for number, (name, mode, data) in enumerate(entries, 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        yield header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4)


def _write_root(target: Path, tree: Path, kernel: Path, product: Path) -> None:
    make_tree(tree, kernel, GUEST_PACKAGES, LATER_MODULES, ("var/lib/pyswarm", SITE))
    _copy_python(tree / SITE, product)
    for name in ("guest_init.sh", "guest_relay.py"):
        shutil.copy(POWER / name, tree / "opt" / name)
    (tree / "opt/guest_init.sh").chmod(0o755)
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n10.0.2.15 power\n")
    make_file_system(target, tree_bytes(tree) * 5 // 4 + _ROOM_BYTES, tree)


def make_tree(tree: Path, kernel: Path, packages: Iterable[str], modules: tuple[str, ...], folders: Iterable[str]) -> None:
    """Fill a root file system's tree: packages of this host, busybox, kernel modules, root, these folders. Raises MissingPackage.

    The initrd runs its /opt/guest_init.sh, which the caller adds.
    """
    usual = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "run", "tmp", "etc", "root", "opt")
    for folder in (*usual, *folders):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    _copy_packages(tree, packages)
    shutil.copy(_busybox(), tree / "usr/bin/busybox")
    _install_modules(tree, kernel, modules, FIRST_MODULES)
    (tree / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")


def _copy_packages(tree: Path, packages: Iterable[str]) -> None:
    listed = subprocess.run(["dpkg-query", "--listfiles", *_closure(packages)], capture_output=True, text=True, check=True).stdout
    names = {_canonical(line) for line in listed.splitlines() if line.startswith("/") and line != "/."}
    python = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    names |= {
        str(path.relative_to("/")) for path in Path("/", python).rglob("*")
    }  # also its compiled files, which no package lists
    for name in sorted(names):
        source, target = Path("/", name), tree / name
        if UNUSED.match(f"{name}/") or not os.path.lexists(source) or os.path.lexists(target):
            continue
        if stat.S_ISDIR(source.lstat().st_mode):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _canonical(path: str) -> str:
    """Return the path with /bin, /lib … as the links to /usr that they are, without the leading slash."""
    return re.sub(r"^(bin|sbin|lib|lib64)(?=/|$)", r"usr/\1", path.strip("/"))


def _copy_python(site: Path, product: Path) -> None:
    for distribution in distributions("pyswarm-cluster"):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            is_needed = ".." not in file.parts and not file.name.startswith("__editable__")
            if is_needed and file.suffix not in (".pyi", ".c", ".h", ".pyx") and source.is_file():
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, site / file)
    for path in product_files(product):
        (site / Path(*path.parts[1:])).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(product / path, site / Path(*path.parts[1:]))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j0", site], check=True)


def tree_bytes(tree: Path) -> int:
    """Return about how much room a tree takes."""
    return sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))


def make_file_system(target: Path, size_bytes: int, tree: Path | None = None) -> None:
    """Make a file with an ext4 file system as `mkfs.ext4` makes it by default, with the files of `tree` in it."""
    target.unlink(missing_ok=True)
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise MissingPackage("mkfs.ext4 is missing here (Debian: apt-get install e2fsprogs)")
    with target.open("wb") as file:
        file.truncate(size_bytes)
    source = [] if tree is None else ["-d", str(tree)]
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]  # else the guest fills its tables during the test
    subprocess.run([program, *options, *source, str(target)], check=True)
