"""The pages beside the code say what is there: their links, their paths and the commands that they show."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest

from wsss_lib import __main__ as program
from wsss_lib.runs.parameters import NOTEBOOKS
from wsss_lib.use.chains import known_parameters, read_words, refuse_unknown_words, split_words
from wsss_lib.use.label_doubts import NAMES as DOUBT_PARAMETERS

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "CONTRIBUTING.md", "data/README.md", "pretrained/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

MOST_WORDS = 1_500
"""Words of the README: more than that nobody reads."""


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page):
    """Return the lines of code blocks, which stand between fences or are indented outside of lists."""
    lines, fenced, blank, indented = [], False, True, False
    for line in read(page).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            lines.append(line)
        else:
            indented = line.startswith("    ") and (blank or indented)
            lines += [line.strip()] if indented else []
        blank = not line.strip()
    return lines


def commands(page):
    """Return the words of every command `wsss` in the code blocks of a page."""
    return [shlex.split(line, comments=True)[1:] for line in blocks(page) if line.startswith("wsss ")]


@every_page
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", read(page))
    relative = [target.partition("#")[0] for target in targets if not re.match(r"https?:|mailto:|#", target)]
    assert [target for target in relative if not (page.parent / target).exists()] == []


@every_page
def test_paths_of_the_repository_exist(page):
    paths = re.findall(r"`((?:wsss_lib|benchmarks|docs|notebooks|scripts|tests)/[\w./-]+)`", read(page))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@every_page
def test_commands_can_be_parsed(page):
    for words in commands(page):
        options = program._parse(words)
        parameters = [word for word in getattr(options, "words", []) if re.match(r"[\w.]+=", word)]
        if words[0] == "doubt":
            refuse_unknown_words(split_words(parameters), DOUBT_PARAMETERS)
            continue
        read_words(parameters, {"walk": "affinitynet"}.get(words[0], getattr(options, "method", "cam")))


@every_page
def test_options_in_sentences_exist(page):
    """A command within a sentence may leave out what it works on."""
    for name, rest in re.findall(r"`wsss ([a-z]+)\b([^`]*)`", read(page)):
        assert name in program._COMMANDS
        known = program._parser(name)._subparsers._group_actions[0].choices[name]._option_string_actions
        assert {*re.findall(r"(?<!\S)--[a-z-]+", rest)} <= known.keys()


@every_page
def test_parameters_of_notebooks_exist(page):
    lines = [line for line in re.split(r"[`\n]", read(page)) if line.strip().startswith("papermill notebooks/")]
    for line in lines:
        stem = re.search(r"notebooks/(\w+)\.ipynb", line)[1]
        notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
        [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        known = re.findall(r"^(\w+)\s*:", cell.source, flags=re.MULTILINE)
        assert {*re.findall(r"-p (\w+)", line)} <= {*known}


@every_page
def test_some_method_has_every_parameter_in_sentences(page):
    known = {name for method in NOTEBOOKS for name in known_parameters(method)}
    known |= {"segmentation", "ablations", "model", "pictures", "variant"}
    assert {*re.findall(r"`-p (\w+)", read(page))} <= known


def test_commands_are_found():
    """What the other tests look at: without it they could look at nothing."""
    found = {words[0] for page in PAGES for words in commands(page)}
    wanted = {"fit", "doubt", "predict", "score", "refine", "walk", "segment", "compare", "convert", "export", "report"}
    assert wanted <= found


def test_readme_is_short():
    assert len(read(ROOT / "README.md").split()) <= MOST_WORDS
