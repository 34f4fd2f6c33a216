"""The machine that runs tests on version 2 cgroups: Debian's cloud kernel, packages and .venv of this host, runc, the repository.

<folder>/vmlinuz, initrd.gz, root.img   as of the machine that loses power, with .venv at /opt/venv; kept while nothing changes
<drive>                                 the repository as it is now, for each run, read-only, at the path that it has here
"""

import hashlib
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import machine_image
from image_builder import PackageCache
from machine_image import MachineImage, MissingPackage, build_once, make_file_system, make_tree, tree_bytes, versions

MACHINE = Path(__file__).resolve().parent
REPOSITORY = MACHINE.parents[1]
PACKAGES = (
    *machine_image.GUEST_PACKAGES,
    *("bash", "coreutils", "dash", "findutils", "grep", "netbase", "procps", "sed", "tar", "tini", "util-linux"),
)
MODULES = (
    *machine_image.LATER_MODULES,
    *("nft_reject_inet", "nft_limit", "nft_log", "nft_compat", "dummy", "loop", "tun", "wireguard"),
)
TOOLS = frozenset({"mypy", "ruff", "import-linter", "grimp", "ast_serialize", "pip", "types-PyYAML"})
"""What checks the code and takes much room."""
UNCOPIED = (".git", ".venv", ".cache", ".*_cache", ".hypothesis", "build", "*.egg-info", "*.pyc.*")
VENV = "opt/venv"
_ROOM_BYTES = 16 << 20


def build_tests_image(folder: Path) -> MachineImage:
    """Return the machine's files in `folder`, built anew when packages or .venv have changed. Raises MissingPackage."""
    return build_once(folder, _inputs(), lambda target, tree, kernel: _write_root(target, tree, kernel, folder))


def write_repository(target: Path, tree: Path, oci_runtime: str, arguments: Sequence[str]) -> None:
    """Make a file system with the repository, and what the machine shall do: give pytest `arguments`. `tree` is a new folder."""
    shutil.copytree(REPOSITORY, tree, symlinks=True, ignore=shutil.ignore_patterns(*UNCOPIED))
    (tree / ".venv").symlink_to(f"/{VENV}")
    (tree / ".machine").write_text(f"oci_runtime={oci_runtime}\nset -- {shlex.join(arguments)}\n")
    make_file_system(target, tree_bytes(tree) * 5 // 4 + _ROOM_BYTES, tree)


def _inputs() -> str:
    digest = hashlib.sha256(versions(_distributions(), PACKAGES) + repr((str(REPOSITORY), MODULES)).encode())
    for path in (Path(__file__), MACHINE / "guest_tests.sh", Path(machine_image.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _distributions() -> list[importlib.metadata.Distribution]:
    found = machine_image.distributions("pyswarm-cluster[dev]")
    return [distribution for distribution in found if distribution.name not in TOOLS]


def _write_root(target: Path, tree: Path, kernel: Path, folder: Path) -> None:
    make_tree(tree, kernel, PACKAGES, MODULES, ("var/lib", "var/tmp", VENV, str(REPOSITORY.relative_to("/"))))
    _copy_venv(tree / VENV)
    _add_runc(tree, folder)
    docker = shutil.which("docker")
    if docker is not None:
        shutil.copy(docker, tree / "usr/bin/docker")
    shutil.copy(MACHINE / "guest_tests.sh", tree / "opt/guest_init.sh")
    (tree / "opt/guest_init.sh").chmod(0o755)
    (tree / "opt/repository").write_text(f"{REPOSITORY}\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n10.0.2.15 machine\n")
    make_file_system(target, tree_bytes(tree) * 5 // 4 + _ROOM_BYTES, tree)


def _copy_venv(target: Path) -> None:
    source = REPOSITORY / ".venv"
    names = {"pyvenv.cfg", *(f"bin/{path.name}" for path in (source / "bin").glob("python*"))}
    for distribution in _distributions():
        paths = (os.path.normpath(str(distribution.locate_file(file))) for file in distribution.files or ())
        names.update(os.path.relpath(path, source) for path in paths)
    for name in sorted(names):
        if not name.startswith("..") and (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name, follow_symlinks=False)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j0", target / "lib"], check=True)


def _add_runc(tree: Path, folder: Path) -> None:
    """Unpack runc's package, which is not installed here; crun is found first."""
    try:
        (package,) = PackageCache(folder / "packages").fetch(["runc"])
    except RuntimeError as error:
        raise MissingPackage(f"runc cannot be downloaded: {error}") from error
    unpacked = folder / "runc"
    shutil.rmtree(unpacked, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
    shutil.copy(unpacked / "usr/sbin/runc", tree / "usr/bin/runc")
