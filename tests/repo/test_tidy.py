"""The shape of the repository as a test: sizes, docstrings, purity, names, banned calls with what to use instead, live links."""

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("common", "manager", "agent", "netplugin", "cli", "node")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70
PURE_MODULES = {"decide.py", "plan.py", "task_machine.py"}
IMPURE_IMPORTS = {
    "asyncio",
    "datetime",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "common_utils"}
IGNORED = {".git", ".venv", ".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "build"}
MOCKS = {"mock", "pytest_mock", "unittest.mock"}
DEVELOPER_PATH = re.compile(r"(?<![\w.:/-])/(?:work|Users|home/(?!vagrant\b)\w+)/[\w.]")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


def repository_files() -> list[Path]:
    """Return the files that belong to the repository: tracked, or new and not ignored; without git, those in no hidden folder."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        return [path for name in names if name and (path := REPOSITORY / name).is_file()]
    found = (path for path in REPOSITORY.rglob("*") if path.is_file())
    return [path for path in found if not IGNORED & set(path.relative_to(REPOSITORY).parts)]


FILES = repository_files()
TREES = {path: ast.parse(path.read_bytes(), str(path)) for path in FILES if path.suffix == ".py"}
PRODUCT_TREES = {path: tree for path, tree in TREES.items() if path.relative_to(REPOSITORY).parts[0] in PRODUCT}


def place(path: Path, node: ast.AST | None = None) -> str:
    """Return `path:line` as editors take it."""
    return f"{path.relative_to(REPOSITORY)}{':' + str(node.lineno) if node is not None and hasattr(node, 'lineno') else ''}"


def functions(tree: ast.AST) -> Iterator[AnyFunction]:
    return (node for node in ast.walk(tree) if isinstance(node, AnyFunction))


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a name or attribute; a call in between is written `()`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return f"{dotted(node.func)}()" if isinstance(node, ast.Call) else "?"


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | AnyFunction]:
    """Yield the public classes and functions of a module, and the public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef | AnyFunction) and not node.name.startswith("_"):
            is_variant = any(dotted(d).endswith((".setter", "overload", "override")) for d in node.decorator_list)
            if not is_variant:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def imported_modules(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node, node.module
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def calls_of_own_body(function: AnyFunction) -> Iterator[ast.Call]:
    """Yield the calls that run when the function's body runs, not those of functions defined in it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, AnyFunction | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def assert_none(violations: list[str]) -> None:
    assert not violations, "\n  " + "\n  ".join(sorted(violations))


def test_modules_are_short() -> None:
    counts = {path: len(path.read_bytes().splitlines()) for path in TREES}
    assert_none([f"{place(path)} has {n} lines, at most {MAX_MODULE_LINES}" for path, n in counts.items() if n > MAX_MODULE_LINES])


def test_functions_are_short() -> None:
    assert_none(
        [
            f"{place(path, function)} {function.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
            for path, tree in TREES.items()
            for function in functions(tree)
            if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
        ]
    )


def test_modules_have_docstrings() -> None:
    assert_none([f"{place(path)} has no docstring" for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)])


def test_public_classes_and_functions_have_docstrings() -> None:
    assert_none(
        [
            f"{place(path, node)} {node.name} has no docstring"
            for path, tree in PRODUCT_TREES.items()
            for node in public_definitions(tree.body)
            if not ast.get_docstring(node)
        ]
    )


def test_deciding_modules_are_pure() -> None:
    pure = {path: tree for path, tree in PRODUCT_TREES.items() if path.name in PURE_MODULES}
    assert_none(
        [
            f"{place(path, node)} imports {name}: it decides, so let its loop or driver pass in what it needs"
            for path, tree in pure.items()
            for node, name in imported_modules(tree)
            if name.split(".")[0] in IMPURE_IMPORTS
        ]
        + [
            f"{place(path, node)} opens a file: it decides, so let its loop or driver do that"
            for path, tree in pure.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and dotted(node.func) == "open"
        ]
    )


def test_names_say_something() -> None:
    assert_none(
        [
            f"{place(path)}: name it for what it holds, not {part!r}"
            for path in FILES
            for part in path.relative_to(REPOSITORY).with_suffix("").parts
            if part in BANNED_NAMES
        ]
    )


def test_no_mocks() -> None:
    assert_none(
        [
            f"{place(path, node)} imports {name}: use a fake that ships in the package beside a contract test"
            for path, tree in TREES.items()
            for node, name in imported_modules(tree)
            if name in MOCKS
        ]
    )


def dropped_tasks(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    starts = re.compile(r"(asyncio|.*loop(\(\))?)\.create_task|(.*\.)?ensure_future")
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and starts.fullmatch(dotted(node.value.func)):
            yield node, "a task that nobody holds: start it in a TaskGroup, or keep it and cancel it"


def blocking_calls(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    instead = {
        "time.sleep": "await clock.sleep(seconds)",
        "subprocess.run": "asyncio.create_subprocess_exec, or asyncio.to_thread for something short",
        "subprocess.call": "asyncio.create_subprocess_exec",
        "subprocess.check_call": "asyncio.create_subprocess_exec",
        "subprocess.check_output": "asyncio.create_subprocess_exec",
        "os.system": "asyncio.create_subprocess_exec",
    }
    for function in functions(tree):
        if isinstance(function, ast.AsyncFunctionDef):
            for call in calls_of_own_body(function):
                if (name := dotted(call.func)) in instead:
                    yield call, f"{name} stops the event loop: use {instead[name]}"


def own_time(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).endswith(("datetime.now", "datetime.utcnow", "date.today")):
            yield node, "time is an argument: take a Clock (pyswarm_common.clock) and use its now_ns()"


def swallowed_errors(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    everything = {"Exception", "BaseException"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            is_broad = node.type is None or dotted(node.type) in everything
            if is_broad and all(isinstance(s, ast.Pass | ast.Continue) for s in node.body):
                yield node, "swallows every error: name those that are expected, and log the others"
        if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress") and {dotted(a) for a in node.args} & everything:
            yield node, "suppresses every error: name those that are expected"


@pytest.mark.parametrize("rule", [dropped_tasks, blocking_calls, own_time, swallowed_errors], ids=lambda rule: rule.__name__)
def test_banned_calls(rule: Callable[[ast.AST], Iterator[tuple[ast.AST, str]]]) -> None:
    assert_none([f"{place(path, node)} {why}" for path, tree in PRODUCT_TREES.items() for node, why in rule(tree)])


@pytest.mark.parametrize(
    ("rule", "source", "count"),
    [
        (dropped_tasks, "asyncio.create_task(f())\nloop.create_task(f())\nasyncio.get_running_loop().create_task(f())", 3),
        (dropped_tasks, "group.create_task(f())\ntask = asyncio.create_task(f())", 0),
        (dropped_tasks, "asyncio.ensure_future(f())", 1),
        (blocking_calls, "async def f():\n    time.sleep(1)\n    subprocess.run(['true'])", 2),
        (blocking_calls, "def f():\n    time.sleep(1)\nasync def g():\n    await to_thread(lambda: time.sleep(1))", 0),
        (own_time, "datetime.now()\ndatetime.datetime.now(UTC)\ndatetime.fromtimestamp(1)", 2),
        (swallowed_errors, "try:\n    f()\nexcept Exception:\n    pass", 1),
        (swallowed_errors, "try:\n    f()\nexcept:\n    pass", 1),
        (swallowed_errors, "with contextlib.suppress(Exception): f()", 1),
        (swallowed_errors, "try:\n    f()\nexcept OSError:\n    pass\ntry:\n    f()\nexcept Exception:\n    log()", 0),
    ],
)
def test_the_rules_see_what_they_are_for(rule: Callable[[ast.AST], Iterator[object]], source: str, count: int) -> None:
    assert len(list(rule(ast.parse(source)))) == count


def test_links_in_documents_are_alive() -> None:
    dead = []
    for path in FILES:
        if path.suffix == ".md":
            for target in LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
                name, _, fragment = target.partition("#")
                if re.match(r"[a-z]+:", target):
                    continue
                goal = path.parent / name if name else path
                if not goal.exists():
                    dead.append(f"{place(path)} links to {target}, which does not exist")
                elif fragment and goal.suffix == ".md" and fragment not in anchors(goal):
                    dead.append(f"{place(path)} links to {target}, which has no such heading")
    assert_none(dead)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings, as forges make them."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_scripts_can_be_run() -> None:
    scripts = [path for path in FILES if path.relative_to(REPOSITORY).parts[0] in {"scripts", ".ci"}]
    assert scripts
    wrong = []
    for path in scripts:
        has_interpreter, is_executable = path.read_bytes().startswith(b"#!"), os.access(path, os.X_OK)
        if has_interpreter and not is_executable:
            wrong.append(f"{place(path)} is not executable")
        if is_executable and not has_interpreter:
            wrong.append(f"{place(path)} is executable, but has no #! line")
        if has_interpreter and b"bash" in path.read_bytes().split(b"\n", 1)[0] and b"set -euo pipefail" not in path.read_bytes():
            wrong.append(f"{place(path)} lacks `set -euo pipefail`")
    assert_none(wrong)


def test_test_files_have_unique_names() -> None:
    seen: dict[str, Path] = {}
    clashes = []
    for path in sorted(TREES):
        if path.name.startswith("test_"):
            if path.name in seen:
                clashes.append(f"{place(path)} has the name of {place(seen[path.name])}")
            seen[path.name] = path
    assert_none(clashes)


def test_no_text_knows_a_developers_machine() -> None:
    found = []
    for path in FILES:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{place(path)}:{n} {m.group()}…" for n, line in enumerate(lines, 1) if (m := DEVELOPER_PATH.search(line))]
    assert_none(found)


def test_every_failpoint_is_named_by_a_cluster_test() -> None:
    tests = "".join(path.read_text() for path in TREES if path.parent.name == "cluster")
    calls = [node for tree in PRODUCT_TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if dotted(call.func) == "failpoint"]
    literals = {name.value for name in names if isinstance(name, ast.Constant)}
    assert len(literals) > 20
    assert [name for name in sorted(literals) if f'"{name}"' not in tests] == []
