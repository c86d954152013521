"""Building and checking notebooks: `python -m utils.notebooks build|check|sync [NAMES]`.

The text in notebooks/src/NAME.py (jupytext py:percent) is what one edits. `build` turns it into notebooks/NAME.ipynb,
executes it and strips what changes from run to run; `check` says what is wrong with a notebook; `sync` writes the text
back from notebooks edited in JupyterLab.

Conventions in the text pair:
    # NBVAL_CHECK_OUTPUT             first line of a cell whose printed output must never change
    tags=["nbval-ignore-output"]     output may change (times, source listings)
    tags=["widget", "nbval-ignore-output"]   a cell that ends in a widget; the next code cell must be ...
    tags=["static"]                  ... a still picture of the same thing, shown with utils.figures.show
    assert / assert_close            makes a cell an agreement cell
    ![what one sees](picture.png)    a picture in the text needs words, a mermaid drawing accTitle: and accDescr:
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
MAX_BYTES = 1_572_864  # 1.5 MB
MAX_LINES = 30  # a cell fits a screen
HEADINGS = ("First result", "The paper", "The method in one picture", "Building it, step by step", "Training",
            "Results", "A claim of the paper, reproduced in shape", "Questions answered", "Find the mistake",
            "Exercises", "Summary")
MEMORY_PROBE = "import resource as _r; print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss)"
Notebook = nbformat.NotebookNode


def build(name: str, execute: bool = True, timeout: int = 600) -> str:
    """Writes notebooks/NAME.ipynb from its text pair, executed; returns one line with time, memory and size.

    The file is replaced only when every cell ran. Raises FileNotFoundError when there is no text pair, and
    nbclient's CellExecutionError when a cell fails.
    """
    source = NOTEBOOKS / "src" / f"{name}.py"
    if not source.exists():
        raise FileNotFoundError(f"there is no {source.relative_to(ROOT)}; the names are {', '.join(names())}.")
    notebook = jupytext.read(source)
    started, memory = time.perf_counter(), 0.0
    if execute:
        memory = run(notebook, timeout)
    seconds = time.perf_counter() - started
    strip(notebook, name)
    path = NOTEBOOKS / f"{name}.ipynb"
    partial = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, partial)
    os.replace(partial, path)
    strict = len(strict_cells(notebook))
    return (f"{name}: {seconds:.0f} s, {memory:.2f} GB at most, {path.stat().st_size / 1e6:.2f} MB, "
            f"{len(code_cells(notebook))} code cells, {strict} with checked output")


def run(notebook: Notebook, timeout: int) -> float:
    """Executes the notebook in place, in a fresh kernel of this Python; returns its peak memory in GB."""
    from nbclient import NotebookClient

    probe = nbformat.v4.new_code_cell(MEMORY_PROBE)
    notebook.cells.append(probe)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}},
                   store_widget_state=False).execute()
    notebook.cells.pop()
    kilobytes = float(probe.outputs[0].text)
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9


def _joined(outputs: list[Notebook]) -> list[Notebook]:
    """The outputs with printed text in one piece: a busy machine delivers it in several."""
    joined: list[Notebook] = []
    for output in outputs:
        if joined and output.get("name") and joined[-1].get("name") == output["name"]:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def strip(notebook: Notebook, name: str) -> None:
    """Removes what changes from run to run: random cell ids, times, versions, the state of widgets."""
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{name} {index}".encode()).hexdigest()[:12]
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell["outputs"] = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if output.get("name") == "stdout":  # of a progress bar, only what is seen in the end
                output["text"] = re.sub(r"[^\n]*\r(?!\n)", "", output["text"])


def check(name: str) -> list[str]:
    """What is wrong with notebooks/NAME.ipynb, one sentence each; an empty list when all is well."""
    path, source = NOTEBOOKS / f"{name}.ipynb", NOTEBOOKS / "src" / f"{name}.py"
    if not path.exists() or not source.exists():
        return [f"{name}: {'the notebook' if not path.exists() else 'the text pair'} is missing."]
    notebook, pair = nbformat.read(path, as_version=4), jupytext.read(source)
    size = path.stat().st_size
    found = [f"{size} bytes; the limit is {MAX_BYTES}."] if size > MAX_BYTES else []
    executed, text = ([(cell.cell_type, cell.source.strip(), _tags(cell)) for cell in one.cells]
                      for one in (notebook, pair))
    if executed != text:
        found.append("notebook and text pair differ; run `python -m utils.notebooks build`, or `sync` to take the "
                     "notebook's.")
    for look in (_execution, _headings, _descriptions, _widgets, _cells, _outputs):
        found += look(notebook)
    if not any("assert" in cell.source for cell in code_cells(notebook)):
        found.append("no agreement cell: nothing asserts that the library equals what was done by hand.")
    if not strict_cells(notebook):
        found.append("no cell carries # NBVAL_CHECK_OUTPUT.")
    return [f"{name}: {sentence}" for sentence in found]


def sync(name: str) -> None:
    """Writes the text pair from the notebook, for changes made in JupyterLab; other cells stay as they are."""
    notebook, source = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4), NOTEBOOKS / "src" / f"{name}.py"
    text = jupytext.read(source)
    layout = {(cell.cell_type, cell.source): cell.metadata for cell in text.cells}  # blank lines, which notebooks lack
    for cell in notebook.cells:
        known = {key: value for key, value in layout.get((cell.cell_type, cell.source), {}).items() if key != "tags"}
        cell.metadata = nbformat.from_dict({**known, **cell.metadata})
    notebook.metadata = text.metadata
    notebook.metadata.setdefault("jupytext", {})["notebook_metadata_filter"] = "jupytext.formats,kernelspec,-all"
    jupytext.write(notebook, source, fmt="py:percent")


def names() -> list[str]:
    """The lessons that have a text pair, in order."""
    return sorted(path.stem for path in (NOTEBOOKS / "src").glob("*.py"))


def code_cells(notebook: Notebook) -> list[Notebook]:
    """The code cells that hold something."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def strict_cells(notebook: Notebook) -> list[Notebook]:
    """The cells whose output must never change."""
    return [cell for cell in code_cells(notebook) if "# NBVAL_CHECK_OUTPUT" in cell.source]


def _execution(notebook: Notebook) -> list[str]:
    cells = code_cells(notebook)
    found = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("the cells were not executed once from top to bottom.")
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        found.append("an output is an error.")
    if any(not cell.outputs for cell in strict_cells(notebook)):
        found.append("a cell with # NBVAL_CHECK_OUTPUT printed nothing.")
    return found


def _headings(notebook: Notebook) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    present = re.findall(r"^## (\d+) (.*)$", text, flags=re.MULTILINE)
    wanted = list(enumerate(HEADINGS))
    if [int(number) for number, _ in present] != [number for number, _ in wanted]:
        return [f"sections are {[number for number, _ in present]}; want 0 to {len(HEADINGS) - 1} in order."]
    return [f"section {number} is called {heading!r}, not {wanted_heading!r}."
            for (number, heading), (_, wanted_heading) in zip(present, wanted, strict=True)
            if not heading.startswith(wanted_heading[:9])]


def _descriptions(notebook: Notebook) -> list[str]:
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            pictures = re.findall(r"!\[\s*\]\([^)]*\)", cell.source) + _bare_images(cell.source)
            found += [f"{picture[:60]!r} in the text has no description." for picture in pictures]
            drawings = re.findall(r"^```mermaid$(.*?)^```", cell.source, flags=re.MULTILINE | re.DOTALL)
            found += ["a mermaid drawing has no accTitle: and accDescr: lines." for drawing in drawings
                      if not re.search(r"accTitle: *\S", drawing) or not re.search(r"accDescr: *\S", drawing)]
    return found


def _bare_images(text: str) -> list[str]:
    """The <img> elements without words in their alt."""
    return [image for image in re.findall(r"<img\b[^>]*>", text) if not re.search(r"""\balt=(["'])\s*[^"'\s]""", image)]


def _widgets(notebook: Notebook) -> list[str]:
    cells = code_cells(notebook)
    return [f"the widget in cell [{cell.execution_count}] has no still picture after it."
            for cell, following in zip(cells, [*cells[1:], None], strict=True)
            if "widget" in _tags(cell) and (following is None or "static" not in _tags(following))]


def _cells(notebook: Notebook) -> list[str]:
    found = []
    for cell in code_cells(notebook):
        lines = cell.source.count("\n") + 1
        if lines > MAX_LINES:
            found.append(f"cell [{cell.execution_count}] has {lines} lines; {MAX_LINES} fit a screen.")
        if re.search(r"import \*|sys\.path|(?<!\w)/(?:home|root|Users|work)/", cell.source):
            found.append(f"cell [{cell.execution_count}] has import *, sys.path or a path of one machine.")
    return found


def _outputs(notebook: Notebook) -> list[str]:
    found = []
    for cell in code_cells(notebook):
        place = f"cell [{cell.execution_count}]"
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data and not _alternative_text(output):
                found.append(f"{place}: a picture without alternative text; show it with utils.figures.show.")
            if _bare_images(str(data.get("text/html", ""))):
                found.append(f"{place}: an <img> without alt.")
            text = str(output.get("text", "")) + str(data.get("text/plain", "")) + str(data.get("text/html", ""))
            if re.search(r"(?<![\w.])/(?:home|root|Users|work|tmp)/", text):
                found.append(f"{place}: the output holds a path of one machine.")
            if output.get("name") == "stderr":
                found.append(f"{place}: writes to stderr: {str(output.text).strip()[:80]!r}.")
    return found


def _alternative_text(output: Notebook) -> str:
    metadata: dict[str, Any] = output.get("metadata", {})
    return str(metadata.get("alt") or metadata.get("image/png", {}).get("alt") or "").strip()


def _tags(cell: Notebook) -> list[str]:
    return list(cell.metadata.get("tags", []))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m utils.notebooks", description="Build and check the notebooks.")
    parser.add_argument("command", choices=("build", "check", "sync"))
    parser.add_argument("names", nargs="*", help="lessons, for instance 01_boxes_iou_nms_ap; all when left out")
    parser.add_argument("--no-execute", action="store_true", help="build without running the cells")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    for name in options.names or names():
        if options.command == "build":
            print(build(name, execute=not options.no_execute), flush=True)
        elif options.command == "sync":
            sync(name)
        else:
            problems += check(name)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
