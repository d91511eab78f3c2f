"""Every notebook has the same anatomy, was committed executed, and carries nothing of the machine it ran on."""

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from tests.scripts import load_script
from wsss_lib.runs.parameters import COMMON, keeps_preset, parameter_types
from wsss_lib.show import exercises

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.stem != "06_compare"]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def load(path):
    return nbformat.read(path, as_version=4)


def sources(path, kind):
    return [cell.source for cell in load(path).cells if cell.cell_type == kind]


def parameters_cell(path):
    [cell] = [c for c in load(path).cells if "parameters" in c.metadata.get("tags", [])]
    return cell.source


@every_notebook
def test_is_valid_and_executed_in_order(path):
    notebook = load(path)
    nbformat.validate(notebook)
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) or "image/jpeg" in o.get("data", {}) for o in outputs)


@every_notebook
def test_every_figure_says_in_words_what_it_shows(path):
    outputs = [o for c in load(path).cells if c.cell_type == "code" for o in c.outputs]
    images = [(kind, o.metadata) for o in outputs for kind in o.get("data", {}) if kind.startswith("image/")]
    words = [metadata.get(kind, {}).get("alt", "") for kind, metadata in images]
    assert min(map(len, words)) >= len("1 picture.")


@every_notebook
def test_every_number_that_it_shows_is_finite(path):
    outputs = [o for c in load(path).cells if c.cell_type == "code" for o in c.outputs]
    shown = "\n".join(o.get("text", "") + o.get("data", {}).get("text/markdown", "") for o in outputs)
    assert not re.findall(r".*\b(?:inf|nan)\b.*", shown)


@every_notebook
def test_carries_no_widgets_paths_or_bulk(path):
    notebook = load(path)
    assert "widgets" not in notebook.metadata
    assert "papermill" not in notebook.metadata
    assert path.stat().st_size < 2_000_000
    text = re.sub(r'"image/(png|jpeg)": "[^"]*"', "", path.read_text())  # in which any letters may occur by chance
    assert "application/vnd.jupyter.widget-view+json" not in text
    assert not re.search(r'"[^"]*(/home/|/root/|/work/|/Users/|/tmp/|C:\\\\)', text)


@every_notebook
def test_parameters_are_flat_annotated_and_commented(path):
    source = parameters_cell(path)
    for statement, line in zip(ast.parse(source).body, source.splitlines(), strict=True):
        assert isinstance(statement, ast.AnnAssign), line
        ast.literal_eval(statement.value)
        comment = line.partition("  # ")[2]
        assert comment, f"no comment: {line}"
        assert not set("=|") & set(comment), f"papermill's help breaks on {line}"


@every_lesson
def test_reads_like_a_lesson(path):
    markdown, code = sources(path, "markdown"), sources(path, "code")
    assert 40 <= len(markdown) + len(code) <= 70
    assert len(markdown) >= len(code)
    words = [re.sub(r"!\[[^]]*\]", "", text).split() for text in markdown]  # without what stands for a picture
    assert 1500 <= sum(map(len, words)) <= 3000
    longest = max(code, key=lambda text: len(text.splitlines()) if text != parameters_cell(path) else 0)
    assert len(longest.splitlines()) <= 25


@every_lesson
def test_has_every_section(path):
    text = "\n".join(sources(path, "markdown"))
    wanted = ["What you will learn", "Builds on", "## Parameters", "Train", "Break it", "Fail", "Exercises"]
    wanted += ["How we differ from the authors' code", "References"]
    assert [w for w in wanted if w not in text] == []
    code = "\n".join(sources(path, "code"))
    assert [
        w for w in ("read_parameters", "write_metrics", r"explore\w*\(", r"exercises\.check") if not re.search(w, code)
    ] == []


@every_notebook
def test_shows_where_it_is_in_the_course(path):
    [cell] = [cell for cell in load(path).cells[:3] if cell.id == "map"]
    [(words, file)] = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", cell.source)
    script = load_script("course_map")
    assert words == script.told(path.stem)
    assert words.endswith(f"You are here: {path.stem.partition('_')[0]}.")
    assert file == f"../docs/pictures/map/{path.stem}.svg"
    assert (path.parent / file).read_text("utf-8") == script.drawing(path.stem)  # or say python scripts/course_map.py


@every_notebook
def test_ends_with_three_sentences(path):
    [summary] = [cell.source for cell in load(path).cells if cell.id == "summary"]
    title, text = summary.split("\n\n")
    assert title == "## Summary"
    assert len(re.findall(r"\.(?=\s|$)", text)) == 3


def names_set(nodes):
    """Yield the global names that statements bind."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            yield from names_set(ast.iter_child_nodes(node))


@every_lesson
def test_no_cell_changes_a_parameter(path):
    """Or the notebook, run again in the same kernel, would have other settings."""
    code = [source for source in sources(path, "code") if source != parameters_cell(path)]
    [method] = re.findall(r'read_parameters\("\w+", "(\w+)"', "\n".join(code))
    parameters = parameter_types(method)
    assert [name for source in code for name in names_set(ast.parse(source).body) if name in parameters] == []


PATCHES = r"(^|\.)(setattr|delattr|patch)\b|__dict__"


def changed_from_outside(source):
    """Yield what a cell assigns to an attribute, or patches or deletes: settings that no run's identity knows."""
    for node in ast.walk(ast.parse(source)):
        assigned = isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
        if assigned or (isinstance(node, ast.Call) and re.search(PATCHES, ast.unparse(node.func))):
            yield ast.unparse(node)


@every_notebook
def test_no_cell_changes_the_library_or_a_run(path):
    """What a run does follows from its settings alone, or its folder would hold something else than it says."""
    assert [change for source in sources(path, "code") for change in changed_from_outside(source)] == []


@pytest.mark.parametrize(
    "cell",
    [
        "run.method.update = lambda *_: {}",
        "run.method.config.epochs += 1",
        "for run.seed in (1, 2): pass",
        "setattr(run.method, 'update', None)",
        "vars(run)['x'] = run.__dict__.update(a=1)",
        "del figures.grid",
        "with mock.patch.object(run, 'train'): pass",
    ],
)
def test_such_a_change_is_noticed(cell):
    assert list(changed_from_outside(cell))


@every_lesson
def test_defaults_are_the_toy_preset(path):
    defaults = {s.target.id: ast.literal_eval(s.value) for s in ast.parse(parameters_cell(path)).body}
    assert defaults["preset"] == "toy"
    [method] = re.findall(r'read_parameters\("\w+", "(\w+)"', "\n".join(sources(path, "code")))
    kinds = parameter_types(method)
    own = defaults.keys() & kinds.keys() - COMMON.keys()
    assert [name for name in own if not keeps_preset(defaults[name], kinds[name])] == []
    assert [name for name, value in defaults.items() if value and name not in {"preset", "resume", *own}] == [
        "accelerator",
        "devices",
        "precision",
        "workers",
    ]


@every_notebook
def test_links_and_modules_exist(path):
    root = path.parents[1]
    for name in re.findall(r"`(wsss_lib/[\w/]+\.py)`", "\n".join(sources(path, "markdown"))):
        assert (root / name).is_file(), name


def solutions_of(path):
    """Return what `solutions.md` has for the exercises of a notebook, in order: code, or the letter of a choice."""
    text = (path.parent / "solutions.md").read_text()
    [section] = re.findall(rf"^## `{path.stem}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\*\*(\d)\.\*\*\s+(?:\((\w)\)|```python\n(.*?)```)", section, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    return [letter or code for _, letter, code in found]


@every_notebook
def test_solutions_are_right(path, capsys):
    """Every exercise with a check has its solution, in its place, and the check says so."""
    exercises_of = [source for source in sources(path, "code") if "exercises.check" in source]
    assert sum("check_choice" not in source for source in exercises_of) >= (2 if path in LESSONS else 1)
    for source, solution in zip(exercises_of, solutions_of(path), strict=True):
        names = {"torch": torch, "np": np, "exercises": exercises, "F": torch.nn.functional}
        if "check_choice" in source:
            exec(re.sub(r'^(\w+) = ""', rf'\1 = "{solution}"', source, flags=re.MULTILINE), names)  # noqa: S102, RUF100
        else:
            check = re.search(r"^exercises\.check.*", source, re.MULTILINE | re.DOTALL)
            exec(solution + check[0], names)  # noqa: S102, RUF100  # what a reader would run
        assert capsys.readouterr().out.startswith("Right."), solution


@every_notebook
def test_choices_have_a_right_answer(path, capsys):
    questions = [c for c in sources(path, "code") if "exercises.check_choice" in c]
    for source in questions:
        said = []
        for letter in "abc":
            exec(re.sub(r'^(\w+) = ""', rf'\1 = "{letter}"', source, flags=re.MULTILINE), {"exercises": exercises})
            said.append(capsys.readouterr().out)
        assert sum(text.startswith("Right.") for text in said) == 1
        assert not [text for text in said if text.strip().partition(" ")[2] in source], "the cell tells the answer"


@every_notebook
def test_choices_belong_to_the_question_above(path):
    above = ""
    for cell in load(path).cells:
        if "check_choice" in cell.source:
            [(lesson, number)] = re.findall(r'check_choice\(\w+, "(\w+)", (\d)\)', cell.source)
            assert lesson == path.stem
            assert re.findall(r"^\*\*(\d)\.\*\*", above, re.MULTILINE) == [number]
        above = cell.source
