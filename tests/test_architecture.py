"""The import graph of the package, and the packages that it asks for; what may import what is in pyproject.toml."""

import ast
import re
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "src" / "rexnet").rglob("*.py")
}
INSTALLED = packages_distributions()


@cache
def imports(module: str, *, lazy: bool) -> list[str]:
    """Dotted names that a module imports; `lazy`: also those in functions and for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(FILES[module].read_text(encoding="utf-8"))]
    found: list[str] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module}: imports are absolute"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.If):
            waiting += ast.iter_child_nodes(node)
    return found


def modules(module: str, *, lazy: bool) -> set[str]:
    """Modules of the package that a module imports."""
    found = {name if name in FILES else name.rpartition(".")[0] for name in imports(module, lazy=lazy)}
    return found & FILES.keys() - {module}


def distributions(module: str, *, lazy: bool) -> set[str]:
    """Installed distributions that a module imports, by name; those that could give a name, joined by |."""
    tops = {name.partition(".")[0] for name in imports(module, lazy=lazy)} - sys.stdlib_module_names - {"rexnet"}
    return {"|".join(sorted(set(map(normal, INSTALLED.get(top, [top]))))) for top in tops}


def normal(requirement: str) -> str:
    """The name in a requirement as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """Names of the required distributions of the package itself, "", and of each extra that users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: rows for name, rows in project["optional-dependencies"].items() if name != "dev"}
    return {name: set(map(normal, rows)) for name, rows in {"": project["dependencies"], **extras}.items()}


def undeclared(module: str, names: set[str], *, lazy: bool) -> list[str]:
    return [f"{module}: {dist}" for dist in distributions(module, lazy=lazy) if not names & set(dist.split("|"))]


def test_no_circles_not_even_for_types():
    TopologicalSorter({module: modules(module, lazy=True) for module in FILES}).prepare()  # CycleError shows one


def test_every_import_is_declared(declared):
    names = set().union(*declared.values())
    assert not [line for module in sorted(FILES) for line in undeclared(module, names, lazy=True)]


def test_the_package_and_its_command_start_without_extras(declared):
    waiting, started = ["rexnet", "rexnet.cli"], set()
    while waiting:
        module = waiting.pop()
        started.add(module)
        waiting += modules(module, lazy=False) - started
    assert not [line for module in sorted(started) for line in undeclared(module, declared[""], lazy=False)]


def test_no_test_is_inside_a_function():
    """pytest would not run it."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {node for outer in functions for node in ast.walk(outer) if node is not outer}
        assert not [node.name for node in functions if node in inside and node.name.startswith("test_")], path


def test_the_walk_finds_known_imports():
    """A walk that finds too little would let everything pass."""
    assert "rexnet.data.decode" in modules("rexnet.data.image_set", lazy=False)
    assert "sklearn.datasets.load_digits" in imports("rexnet.data.datasets.named", lazy=True)
    assert "sklearn.datasets.load_digits" not in imports("rexnet.data.datasets.named", lazy=False)
    assert undeclared("rexnet.data.decode", set(), lazy=False) != []
