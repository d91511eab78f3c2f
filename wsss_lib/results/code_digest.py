"""A digest of the code that decides a method's numbers, so that numbers of older code can be recognised."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


@cache
def code_digest(*starts: str) -> str:
    """Return a digest of some files of the package and of all files of the package that they import.

    Comments, docstrings and layout do not count.

    Args:
        starts: Files as seen from the package, such as ``methods/cam.py``; one that does not exist is left out.

    Returns:
        16 hexadecimal digits.
    """
    trees: dict[Path, ast.Module] = {}
    wanted = [_PACKAGE / start for start in starts]
    while wanted:
        path = wanted.pop()
        if path in trees or not path.is_file():
            continue
        trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsss_lib."):
                inside = _PACKAGE.joinpath(*str(node.module).split(".")[1:])
                wanted += [inside.with_suffix(".py"), inside / "__init__.py"]
                wanted += [inside / f"{alias.name}.py" for alias in node.names]
    total = hashlib.sha256()
    for path, tree in sorted(trees.items()):
        total.update(f"{path.relative_to(_PACKAGE).as_posix()}\n{_without_docstrings(tree)}\n".encode())
    return total.hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)
