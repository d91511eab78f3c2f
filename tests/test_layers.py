"""Imports only ever point down, and each room holds what it says."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import wsss_lib

PACKAGE = Path(__file__).parent.parent / "wsss_lib"
LAYERS = [
    "errors",
    "ops",
    "data",
    "models",
    "methods",
    "show",
    "stages",
    "exchange",
    "runs",
    "results",
    "use",
    "pipeline",
    "__main__",
]
ALLOWED = {
    "models": {"errors", "ops"},
    "ops": {"errors"},
    "data": {"errors"},
    "methods": {"errors", "ops", "data", "models"},
}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "wsss_lib" and len(parts) > 1:
                yield parts[1]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        return
    below = ALLOWED.get(room, set(LAYERS[: LAYERS.index(room)]))
    assert set(imported_rooms(path)) - {room} <= below


def imported_files(path):
    """Return the files of the package that a file imports at its top, by the names of their modules."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsss_lib"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            files = [PACKAGE.parent / f"{name.replace('.', '/')}.py" for name in names]
            yield from (file for file in files if file.is_file())


def test_no_circle_of_imports():
    graph = {path: set(imported_files(path)) - {path} for path in PACKAGE.rglob("*.py")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_of_the_package_inside_a_function(path):
    """Only the commands of the shell may load their parts late, so that `wsss --help` is quick."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    assert path.name in ("__main__.py", "map_commands.py") or not [
        n.module for n in inside if (n.module or "").startswith("wsss_lib")
    ]


def test_importing_the_package_is_light():
    """The package itself loads nothing, so that its parts cost only what they need."""
    code = "import sys, wsss_lib; print(sorted(m for m in sys.modules if m in ('torch', 'numpy') or 'wsss_lib.' in m))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", wsss_lib.__all__)
def test_public_names_are_there(name):
    assert getattr(wsss_lib, name).__doc__
    assert name in dir(wsss_lib)


def test_a_name_that_is_not_public():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = wsss_lib.no_such_name


def test_old_imports_work_for_one_version():
    code = (
        "from wsss_lib.pipeline import kinds, report; from wsss_lib.pipeline.seeds import SeedRun;"
        "from wsss_lib.pipeline.affinity import AffinityRun; from wsss_lib.pipeline.store import read_json;"
        "from wsss_lib.runs.cam import CamRun; print(SeedRun is CamRun, kinds.open_run.__module__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert found.stdout == "True wsss_lib.runs.kinds\n"
