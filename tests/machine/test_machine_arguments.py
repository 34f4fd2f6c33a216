"""What pytest is told in the machine with version 2 cgroups."""

import asyncio
import runpy
from pathlib import Path

import pytest
from machine_arguments import CONTAINERS, NETWORKS, QUICK, TOO_LONG, pytest_arguments
from slow_machine import let_limits_grow

REPOSITORY = Path(__file__).resolve().parents[2]
THIS = "tests/machine/test_machine_arguments.py"


def exists(name: str) -> bool:
    """Whether the repository has this file or folder."""
    return (REPOSITORY / name).exists()


def chosen(*given: str) -> list[str]:
    """Return the files that pytest is given."""
    return [argument for argument in pytest_arguments(QUICK, given, exists) if exists(argument.partition("::")[0])]


@pytest.mark.parametrize("name", sorted({*QUICK, *CONTAINERS, *NETWORKS}))
def test_the_usual_tests_exist(name: str) -> None:
    assert exists(f"tests/kernel/{name}.py")


@pytest.mark.parametrize("test", TOO_LONG)
def test_what_takes_too_long_there_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (REPOSITORY / file).read_text()
    assert f"--deselect={test}" in pytest_arguments(NETWORKS, [], exists)


def test_what_is_no_file_narrows_the_usual_tests() -> None:
    usual = [f"tests/kernel/{name}.py" for name in QUICK]
    assert chosen() == chosen("-k", "stop", "-x") == usual
    assert pytest_arguments(QUICK, ["-k", "stop"], exists)[-2:] == ["-k", "stop"]


@pytest.mark.parametrize("name", [THIS, f"{THIS}::test_the_usual_tests_exist", "tests/machine"])
def test_a_file_takes_the_place_of_the_usual_tests(name: str) -> None:
    assert chosen("-x", name) == [name]


async def test_only_the_tests_own_limits_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timeout", "wait_for"):
        monkeypatch.setattr(asyncio, name, getattr(asyncio, name))
    let_limits_grow(10)
    product = tmp_path / "product.py"
    product.write_text("import asyncio\ndef limit():\n    return asyncio.timeout(100)\n")
    product_limit = runpy.run_path(str(product))["limit"]
    now_s = asyncio.get_running_loop().time()
    limits_s = [round((limit.when() or 0) - now_s, -1) for limit in (asyncio.timeout(100), product_limit())]
    assert limits_s == [1000, 100]
    assert await asyncio.wait_for(asyncio.sleep(0, "done"), 1) == "done"
    assert asyncio.timeout(None).when() is None
