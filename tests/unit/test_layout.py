"""The folders, the import names, the links for type checkers and the arrows must agree."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import sira
from sira import _native

ROOT = Path(__file__).parents[2]
LINKS = ROOT / "typings" / "sira"
CONF = tomllib.loads((ROOT / "pyproject.toml").read_text())
TABLE = CONF["tool"]["scikit-build"]["wheel"]["packages"]
FOLDERS = {name.removeprefix("sira/"): folder for name, folder in TABLE.items() if "/" in name}
# Folders that exist but are no packages of their own under sira.
NOT_PACKAGES = {"tests", "benches", "examples"}
MAY_IMPORT = {
    "v1": set(),
    "kernel": {"v1"},
    "durable": {"kernel", "v1"},
    "consensus": {"durable", "kernel", "v1"},
    "registry": {"consensus", "durable", "kernel", "v1"},
    "scheduler": {"durable", "kernel", "registry", "consensus", "v1"},
    "client": {"kernel", "v1"},
    "testing": {"client", "kernel", "services", "v1"},
    "services": {"durable", "kernel", "registry", "consensus", "scheduler", "client", "v1"},
    "cli": {"client", "kernel", "services", "v1"},
    "console": {"client", "v1"},
}


@pytest.mark.skipif(not LINKS.exists(), reason="an sdist carries no links")
def test_links_match_the_table() -> None:
    links = {p.name: p.resolve() for p in LINKS.iterdir() if p.is_dir()}
    assert links == {name: (ROOT / folder).resolve() for name, folder in FOLDERS.items()}


def test_every_package_folder_is_in_the_table() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - NOT_PACKAGES
    assert packages <= set(FOLDERS)


def test_every_folder_of_the_table_has_arrows() -> None:
    assert set(FOLDERS) <= set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_every_folder_opens_with_a_docstring(name: str) -> None:
    folder = ROOT / FOLDERS[name]
    opening = {path.parent for path in folder.rglob("*.py")} | {folder}
    for inner in opening:
        path = inner / "__init__.py"
        assert path.is_file(), f"{inner} holds modules and has no __init__.py"
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_imports_follow_the_arrows(name: str) -> None:
    allowed = MAY_IMPORT[name] | {name, "_native", "__version__"}
    for path in _modules(name):
        for target in _sira_imports(ast.parse(path.read_text())):
            assert target in allowed, f"{path.relative_to(ROOT)}: {name} -> {target}"


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_every_import_name_is_found(name: str) -> None:
    assert find_spec(f"sira.{name}") is not None


def test_the_extension_was_built_for_this_version() -> None:
    assert _native.version() == sira.__version__


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sira.no_such_name


def _modules(name: str) -> Iterator[Path]:
    """Yield the modules of a folder, without those of a folder inside it that has its own name."""
    inner = [ROOT / f for n, f in FOLDERS.items() if f.startswith(f"{FOLDERS[name]}/")]
    for path in (ROOT / FOLDERS[name]).rglob("*.py"):
        if not any(path.is_relative_to(folder) for folder in inner):
            yield path


def _sira_imports(tree: ast.Module) -> Iterator[str]:
    """Yield x of `from sira.x... import`, `from sira import x` and `import sira.x...`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sira":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sira."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("sira."))
