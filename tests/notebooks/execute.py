"""Execute committed notebooks at their defaults and keep the outputs: python tests/notebooks/execute.py NOTEBOOK ..."""

import argparse
import tempfile
from pathlib import Path

import nbformat
import papermill


def execute(path):
    """Run a notebook in a fresh folder of results, and write it back without anything of this run but its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.ipynb"
        known = papermill.inspect_notebook(path)
        afresh = {name: False for name in ("resume",) if name in known}
        papermill.execute_notebook(path, output, afresh, cwd=path.parent, progress_bar=False)
        executed = nbformat.read(output, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell, done in zip(notebook.cells, cells, strict=True):
        if cell.cell_type == "code":
            count += 1
            cell.outputs = _merged([_renumbered(o, count) for o in done.outputs if not _is_log(o)])
            cell.execution_count = count
    nbformat.write(notebook, path)


def _merged(outputs):
    """Join what was printed in several pieces."""
    result = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def _is_log(output):
    return output.output_type == "stream" and output.name == "stderr"


def _renumbered(output, count):
    if "execution_count" in output:
        output.execution_count = count
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    for notebook in parser.parse_args().notebooks:
        print(notebook)
        execute(notebook.resolve())
