"""The arrows between the rooms of this house, and a few rules that a reader would otherwise have to trust.

    model, errors <- core <- {edge, upstream, control, config} <- app <- server <- cli

`edge`, `upstream` and `control` never import one another; `admin` reads; a plugin imports `gateway.plugin`, `model`,
`errors` and starlette, and its own neighbours.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOUNS = {"model", "errors"}

# Who may import whom, by room (a folder of gateway/, or a module in it). Itself always; a room not named here: anybody.
ALLOWED = {
    "model": {"errors"},
    "errors": set[str](),
    "clock": set[str](),
    "garbage": set[str](),
    "core": NOUNS,
    "config": NOUNS | {"garbage", "core"},
    "stores": NOUNS | {"core", "config"},
    "tls": NOUNS | {"core", "config"},
    "plugin": NOUNS | {"core", "config"},
    "edge": NOUNS | {"clock", "core", "config", "stores", "plugin"},
    "upstream": NOUNS | {"clock", "core", "config", "tls"},
    "control": NOUNS | {"garbage", "core", "config", "stores", "tls"},
    "admin": NOUNS | {"core", "config", "compiled"},
    "compiled": set[str](),
    "demo": set[str](),
    "runtime": NOUNS | {"core", "config", "stores", "tls", "edge", "upstream"},
    "app": NOUNS | {"core", "config", "stores", "tls", "plugin", "edge", "upstream", "runtime"},
    "preflight": NOUNS | {"core", "config", "stores", "tls", "plugin", "edge", "upstream", "control", "admin"},
    "server": NOUNS
    | {
        "clock",
        "garbage",
        "core",
        "config",
        "stores",
        "tls",
        "plugin",
        "edge",
        "upstream",
        "control",
        "admin",
        "runtime",
        "app",
        "preflight",
    },
}

# Arrows against the rule, each with its reason.
EXCUSED = {
    ("model", "core"): "types of what an Exchange carries, for the type checker alone",
}

BROAD = ("Exception", "BaseException")
IMPURE = {"time", "asyncio", "socket", "os", "logging", "threading", "secrets", "io", "pathlib", "datetime"}
IMPURE_CALLS = {"open", "print", "input", "Random"}


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(node: ast.AST) -> Iterator[str]:
    """The modules of gateway that a statement imports: `from gateway.core import paths` is `gateway.core.paths`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "gateway")
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        if node.module and node.module.split(".")[0] == "gateway":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() else node.module


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(tree: ast.Module, *, with_types: bool = True) -> Iterator[ast.AST]:
    """Every node of a module; without what only the type checker reads, if so wished."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if not with_types and is_for_types(node):
            continue
        yield node
        queue.extend(ast.iter_child_nodes(node))


GATEWAY = modules("gateway")
PLUGINS = modules("plugins")
OURS = GATEWAY + PLUGINS


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_every_module_imports_only_what_its_room_may() -> None:
    wrong = [
        f"{at(path, node)} imports {module}"
        for path in GATEWAY
        if (room := room_of(name_of(path))) in ALLOWED
        for node in statements(tree_of(path))
        for module in imported(node)
        if (other := room_of(module)) not in ALLOWED[room] | {room, ""} and (room, other) not in EXCUSED
    ]
    assert wrong == []


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(name_of(path)) for path in GATEWAY} - {""}
    assert rooms - set(ALLOWED) == {"cli", "__main__"}
    assert set(ALLOWED) <= rooms


@pytest.mark.parametrize("room", ["edge", "upstream", "control"])
def test_the_three_planes_do_not_know_one_another(room: str) -> None:
    """Said twice, because it is the arrow that matters most."""
    others = {"edge", "upstream", "control"} - {room}
    assert not others & ALLOWED[room]


def test_there_is_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in GATEWAY:
        found = {module for node in statements(tree_of(path), with_types=False) for module in imported(node)}
        graph[name_of(path)] = found - {name_of(path)}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a cycle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_module_of_ours_is_imported_inside_a_function() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    wrong = [
        f"{at(path, child)} imports {module}"
        for path in OURS
        for node in ast.walk(tree_of(path))
        if isinstance(node, functions)
        for child in ast.walk(node)
        for module in imported(child)
    ]
    assert wrong == []


def test_nothing_is_declared_global() -> None:
    assert [at(path, node) for path in OURS for node in ast.walk(tree_of(path)) if isinstance(node, ast.Global)] == []


def is_broad(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(name is None or (isinstance(name, ast.Name) and name.id in BROAD) for name in caught)


def test_everything_is_caught_only_by_rescue_and_at_a_border_that_says_so() -> None:
    wrong = [
        f"{at(path, node)}: {line.strip()}"
        for path in OURS
        if path != ROOT / "gateway" / "edge" / "rescue.py"
        for node in ast.walk(tree_of(path))
        if is_broad(node)
        and "border" not in (line := path.read_text(encoding="utf-8").splitlines()[node.lineno - 1])  # type: ignore[attr-defined]
        and not is_in(path, node, "_foreign")
    ]
    assert wrong == []


def is_in(path: Path, node: ast.AST, function: str) -> bool:
    """Whether a node is inside the function of this name."""
    return any(
        isinstance(outer, ast.FunctionDef) and outer.name == function and node in ast.walk(outer)
        for outer in ast.walk(tree_of(path))
    )


def test_a_plugin_needs_no_more_of_the_gateway_than_it_is_offered() -> None:
    used = {module for path in PLUGINS for node in statements(tree_of(path)) for module in imported(node)}
    assert used <= {"gateway.plugin", "gateway.model", "gateway.errors"}


def test_decisions_have_no_clock_no_dice_and_no_io() -> None:
    """`Random` as a type is what they are handed; calling for one of their own would be dice."""
    wrong = [
        at(path, node)
        for path in modules("gateway/core")
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Import) and {alias.name.split(".")[0] for alias in node.names} & IMPURE)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPURE)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS)
    ]
    assert wrong == []
