"""Imports only ever point down, and each room holds what it says."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsss_lib"
LAYERS = ["errors", "ops", "data", "models", "methods", "show", "pipeline", "use", "__main__"]
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


def test_importing_the_package_is_light():
    """The package itself imports nothing, so that its parts cost only what they need."""
    source = (PACKAGE / "__init__.py").read_text()
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
