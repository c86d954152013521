"""Set-up, source display, and the builder and checker of notebooks, on small notebooks made for it."""

import shutil
import subprocess
import sys

import nbformat
import pytest
import torch

from lessons.boxes import box_iou
from utils import notebooks
from utils.setup import check_packages, peak_gigabytes, setup
from utils.source import source_markdown

TEXTS = notebooks.NOTEBOOKS / "src"
HEADER = "# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n#     display_name: p\n#     language: python\n# ---\n\n"
SECTIONS = "\n".join(f"# %% [markdown]\n# ## {i} {heading}\n" for i, heading in enumerate(notebooks.HEADINGS))
GOOD = HEADER + SECTIONS + """
# %%
# NBVAL_CHECK_OUTPUT
assert 1 + 1 == 2
print("two")

# %%
from matplotlib.figure import Figure
from utils.figures import show
show(Figure(), alt="An empty figure.")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    return tmp_path


def write(folder, text, execute=True):
    (folder / "src" / "01_x.py").write_text(text)
    return notebooks.build("01_x", execute=execute)


def test_build_executes_and_repeats_to_the_byte(folder):
    said = write(folder, GOOD)
    assert "2 code cells, 1 with checked output" in said
    first = (folder / "01_x.ipynb").read_bytes()
    write(folder, GOOD)
    assert (folder / "01_x.ipynb").read_bytes() == first
    assert notebooks.check("01_x") == []
    assert notebooks.main(["check", "01_x"]) == 0


def test_a_change_made_in_the_notebook_is_all_that_changes_in_the_text(folder):
    """Header, blank lines and the other cells of a real lesson stay as they are."""
    text, sentence = (TEXTS / "05_faster_rcnn.py").read_text(), "Run the cells from top to bottom."
    write(folder, text, execute=False)
    notebooks.sync("01_x")
    assert (folder / "src" / "01_x.py").read_text() == text
    path = folder / "01_x.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if sentence in cell.source)
    cell["source"] = cell.source.replace(sentence, "Run them.")
    nbformat.write(notebook, path)
    notebooks.sync("01_x")
    assert (folder / "src" / "01_x.py").read_text() == text.replace(sentence, "Run them.")


def test_a_failing_cell_leaves_the_old_notebook(folder):
    write(folder, GOOD)
    before = (folder / "01_x.ipynb").read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        write(folder, GOOD + "\n# %%\n1 / 0\n")
    assert (folder / "01_x.ipynb").read_bytes() == before


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A good notebook, executed once: starting a kernel takes seconds."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "src").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "NOTEBOOKS", folder)
        patch.setattr(notebooks, "ROOT", folder)
        write(folder, GOOD)
    return folder


def problems(folder, change):
    notebook = nbformat.read(folder / "01_x.ipynb", as_version=4)
    change(notebook)
    nbformat.write(notebook, folder / "01_x.ipynb")
    return " ".join(notebooks.check("01_x"))


CODE = len(notebooks.HEADINGS)  # the first code cell


@pytest.mark.parametrize(("change", "said"), [
    (lambda n: n.cells[CODE].update(source="print(3)"), "differ; run"),
    (lambda n: n.cells[CODE].update(execution_count=7), "not executed once from top to bottom"),
    (lambda n: n.cells[CODE].update(outputs=[]), "printed nothing"),
    (lambda n: n.cells[CODE + 1].outputs[0].update(metadata={}), "without alternative text"),
    (lambda n: n.cells[CODE].outputs[0].update(text="see /" + "home/me/x"), "path of one machine"),
    (lambda n: n.cells[CODE].outputs[0].update(name="stderr"), "writes to stderr"),
    (lambda n: n.cells[CODE].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])), "is an error"),
    (lambda n: n.cells[3].update(source="## 7 Elsewhere"), "want 0 to 10 in order"),
    (lambda n: n.cells[3].update(source="## 3 Cooking"), "section 3 is called 'Cooking'"),
    (lambda n: n.cells[CODE].metadata.update(tags=["widget"]), "has no still picture after it"),
    (lambda n: n.cells[CODE].metadata.update(tags=["nbval-ignore-output"]), "differ; run"),
    (lambda n: n.cells[3].update(source="## 3 Building it\n![ ](dog.png)"), "'![ ](dog.png)' in the text has no description"),
    (lambda n: n.cells[3].update(source="<img src=dog.png alt=''>"), "in the text has no description"),
    (lambda n: n.cells[3].update(source="```mermaid\nflowchart LR\naccTitle: a\naccDescr:\n```"), "no accTitle: and accDescr:"),
    (lambda n: n.cells[CODE].outputs.append(nbformat.v4.new_output("display_data", data={
        "text/html": "<img src=x alt='a dog'><img src=y>"})), "an <img> without alt"),
    (lambda n: n.cells[CODE].update(source="x = 1\n" * 40), "40 lines|41 lines"),
    (lambda n: n.cells[CODE].update(source="from os import *"), "import *"),
])
def test_the_checker_sees(folder, built, change, said):
    shutil.copytree(built, folder, dirs_exist_ok=True)
    found = problems(folder, change)
    assert any(one in found for one in said.split("|")), found


def test_described_pictures_and_drawings_are_welcome(folder):
    drawing = "# ![a dog](dog.png)\n# ```mermaid\n# flowchart LR\n#     accTitle: a\n#     accDescr: b\n#     A --> B\n# ```\n"
    write(folder, GOOD.replace("# ## 4 Training\n", "# ## 4 Training\n#\n" + drawing), execute=False)
    assert "accDescr: b" in (folder / "01_x.ipynb").read_text()
    assert not [problem for problem in notebooks.check("01_x") if "description" in problem or "mermaid" in problem]


def test_what_is_missing_is_named(folder):
    assert notebooks.check("01_x") == ["01_x: the notebook is missing."]
    with pytest.raises(FileNotFoundError, match="there is no src/02_y.py"):
        notebooks.build("02_y")
    write(folder, GOOD.replace("assert 1 + 1 == 2\n", "").replace("# NBVAL_CHECK_OUTPUT\n", ""))
    assert len(notebooks.check("01_x")) == 2  # no agreement, nothing checked


def test_a_progress_bar_leaves_only_its_end(folder):
    write(folder, GOOD + "\n# %%\nprint('10 %\\r50 %\\rdone')\n")
    assert nbformat.read(folder / "01_x.ipynb", as_version=4).cells[-1].outputs[0].text == "done\n"


def test_printed_text_comes_in_one_piece(folder):
    write(folder, GOOD + "\n# %%\nimport sys, time\nprint('one', flush=True); time.sleep(0.5); print('two')\nprint('a word', file=sys.stderr)\n")
    outputs = nbformat.read(folder / "01_x.ipynb", as_version=4).cells[-1].outputs
    assert [(one.name, one.text) for one in outputs] == [("stdout", "one\ntwo\n"), ("stderr", "a word\n")]


def test_source_is_shown_whole_and_with_its_place():
    text = source_markdown(box_iou)
    assert text.startswith("`lessons/boxes.py`, lines ")
    assert "def box_iou(boxes1: Tensor" in text
    assert text.endswith("```")
    method = source_markdown(torch.nn.Linear.forward)
    assert "\n```python\ndef forward" in method  # not indented
    with pytest.raises(TypeError, match="no Python source"):
        source_markdown(3)


def test_setup_seeds_and_reports(monkeypatch, capsys):
    monkeypatch.delenv("LESSONS_PROFILE", raising=False)
    context = setup("07", seed=5)
    one = torch.rand(3), torch.rand(3, generator=context.generator)
    again = setup("07", seed=5)
    assert torch.equal(torch.rand(3), one[0])
    assert torch.equal(torch.rand(3, generator=again.generator), one[1])
    assert capsys.readouterr().out.splitlines()[0] == "Lesson 07: profile short, seed 5."
    context.budget()
    assert "budget 90 s" in capsys.readouterr().out
    assert 0.05 < peak_gigabytes() < 50
    again.seconds = 0
    again.budget()
    assert "over the budget" in capsys.readouterr().out


def test_an_unknown_profile_is_named(monkeypatch):
    monkeypatch.setenv("LESSONS_PROFILE", "turbo")
    with pytest.raises(ValueError, match="'turbo'; it must be short or full"):
        setup("07")


def test_another_package_called_utils_is_named(tmp_path):
    check_packages()
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "__init__.py").write_text("")
    program = ("import sys; sys.path.insert(0, sys.argv[1]); import lessons; from utils.setup import check_packages\n"
               "try: check_packages()\nexcept ImportError as error: print(error)")
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert "the package 'lessons' was imported from" in result.stdout, result.stderr
