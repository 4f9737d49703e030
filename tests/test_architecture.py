"""The arrows of the house: who may import whom, and what no module may do, read from the code itself.

model, errors <- core <- {stores, tls, edge, upstream, control, config} <- app <- server <- cli
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gateway"

# What a part may import besides itself. `config` is the shape of settings: it decides nothing and is read everywhere.
NOUNS = {"model", "errors"}
LEAVES = NOUNS | {"core", "config"}
MAY_IMPORT = {
    "model": set[str](),  # what it names for types alone does not count
    "errors": set[str](),
    "core": NOUNS,
    "config": NOUNS | {"core", "stores", "tls"},
    "stores": LEAVES,
    "tls": LEAVES,
    "plugin": LEAVES,
    "edge": LEAVES | {"stores", "tls", "plugin"},
    "upstream": LEAVES | {"tls"},
    "control": LEAVES | {"stores", "tls"},
    "admin": LEAVES,
    "demo": LEAVES,
    "runtime": LEAVES | {"stores", "tls", "edge", "upstream"},
    "app": LEAVES | {"stores", "tls", "edge", "upstream", "plugin", "runtime"},
    "preflight": LEAVES | {"stores", "tls", "edge", "control", "plugin", "admin", "upstream"},
    "server": LEAVES
    | {"stores", "tls", "edge", "upstream", "control", "admin", "plugin", "runtime", "app", "preflight"},
}
EVERYTHING = {"cli", "__main__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs when the module is imported: imports for types alone do not."""
    return (node for node in tree.body if not is_for_types(node))


def imported_parts(nodes: Iterator[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gateway":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("gateway."))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_inside_of_it(path: Path) -> None:
    part = part_of(path)
    if part in EVERYTHING or part == "__init__":
        return
    found = set(imported_parts(statements(ast.parse(path.read_text("utf-8"))))) - {part}
    assert found <= MAY_IMPORT[part], f"{part} may not import {found - MAY_IMPORT[part]}"


def test_parts_form_no_cycle() -> None:
    edges: dict[str, set[str]] = {}
    for path in modules():
        part = part_of(path)
        found = set(imported_parts(statements(ast.parse(path.read_text("utf-8")))))
        edges.setdefault(part, set()).update(found - {part})
    done: set[str] = set()

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, " -> ".join((*way, part))
        if part not in done:
            for other in sorted(edges.get(part, ())):
                visit(other, (*way, part))
            done.add(part)

    for part in sorted(edges):
        visit(part, ())
    assert {"core", "edge", "server", "cli"} <= done


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_hides_no_import_of_ours_in_a_function_and_has_no_global(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: global"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            late = list(imported_parts(n for n in ast.walk(node) if isinstance(n, ast.stmt)))
            assert not late, f"{node.name} imports {late}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_broad_except_stands_in_rescue_or_says_whose_border_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler) or path.name == "rescue.py":
            continue
        caught = ast.unparse(node.type) if node.type else "everything"
        is_broad = bool({"Exception", "BaseException", "everything"} & set(caught.strip("()").split(", ")))
        assert not is_broad or "#" in lines[node.lineno - 1], f"line {node.lineno}: except {caught} without a word why"


def test_core_knows_no_clock_no_dice_and_no_io() -> None:
    forbidden = {"asyncio", "logging", "os", "socket", "time", "httpx2", "starlette", "uvicorn"}
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & forbidden, f"{path.name}: {names}"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.name)
def test_a_plugin_imports_only_the_public_surface(path: Path) -> None:
    found = set(imported_parts(statements(ast.parse(path.read_text("utf-8")))))
    assert found <= {"plugin", "model", "errors"}
