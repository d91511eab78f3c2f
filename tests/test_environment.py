"""conda's environment.yml and pip's pyproject.toml ask for the same."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_both_files_ask_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "environment.yml").read_text().splitlines()
    conda = [match[1] for line in lines if (match := re.match(r" {6}- ([^#]+?)\s*(#.*)?$", line))]
    assert sorted(conda) == sorted([*wanted, "--editable ."])
    assert f"  - python{project['requires-python']}" in lines
