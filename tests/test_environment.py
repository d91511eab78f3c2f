"""What stands beside the package: environments, and the forms for issues."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def test_both_files_ask_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "environment.yml").read_text().splitlines()
    conda = [match[1] for line in lines if (match := re.match(r" {6}- ([^#]+?)\s*(#.*)?$", line))]
    assert sorted(conda) == sorted([*wanted, "--editable ."])
    assert f"  - python{project['requires-python']}" in lines


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem)
def test_issue_forms(path):
    """The hosting site drops a form without a word if one of these things is missing or given twice."""
    form = yaml.safe_load(path.read_text())
    assert form.keys() >= {"name", "description", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len({*names}) == len(names)
    for field in fields:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
