"""Compiled modules are used where they are made from exactly the sources that are there, and nowhere else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.compiled import PACKAGE, VARIABLE, folder

ROOT = PACKAGE.parent
SAY = "from gateway import __main__, compiled; import gateway.errors as e; print(compiled.is_in_use(), e.__file__)"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout, whose compiled package is what a C compiler would have made of it but for one file."""
    shutil.copytree(PACKAGE, tmp_path / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    return tmp_path


def said(root: Path, wish: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), VARIABLE: wish},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip()


def compile_by_hand(root: Path) -> Path:
    place = folder(root / "gateway")
    shutil.copytree(root / "gateway", place / "gateway")
    return place


def test_what_was_compiled_from_these_sources_is_used(copy: Path) -> None:
    assert said(copy) == f"False {copy}/gateway/errors.py"
    place = compile_by_hand(copy)
    assert said(copy) == f"False {place}/gateway/errors.py"
    assert said(copy, "0") == f"False {copy}/gateway/errors.py"


@pytest.mark.parametrize("name", ["gateway/model.py", "gateway/edge/new.py", "setup.py"])
def test_one_edit_later_it_is_not(copy: Path, name: str) -> None:
    compile_by_hand(copy)
    with (copy / name).open("a") as file:
        file.write("# a thought\n")
    assert said(copy) == f"False {copy}/gateway/errors.py"
    assert said(copy, "1") == f"{VARIABLE}=1, and there are no compiled modules of these sources: run scripts/compile"


def test_every_module_that_is_compiled_is_there() -> None:
    listed = re.search(r"COMPILED = \((.*?)\)  # fmt", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert listed is not None
    names = re.findall(r'"([a-z_/]+)"', listed[1])
    assert "server/protocol" in names
    assert [name for name in names if not (PACKAGE / f"{name}.py").is_file()] == []


def test_the_tests_run_what_they_ask_for() -> None:
    wish = os.environ[VARIABLE]
    runs = said(ROOT, wish)
    assert runs.startswith(f"True {folder()}/" if wish == "1" else f"False {PACKAGE}/"), runs
