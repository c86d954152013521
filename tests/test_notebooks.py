"""Every notebook runs from top to bottom without a network, and its checked numbers do not change."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
NAMES = notebooks.names()
pytestmark = pytest.mark.notebook


@pytest.fixture
def offline(tmp_path):
    """The environment of a kernel that can reach nothing but this machine."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "offline_startup.py", startup / "00_offline.py")
    return {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "LESSONS_PROFILE": "short"}


def nbval(path, environment, seconds=900):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300",
               "-p", "no:cacheprovider", "-q", "--rootdir", str(path.parent), "-c", os.devnull, str(path)]
    return subprocess.run(command, env=environment, cwd=path.parent, capture_output=True, text=True, timeout=seconds)


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_in_order(name):
    assert notebooks.check(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs_offline(name, offline, tmp_path, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    path = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder))
    notebook = nbformat.read(path, as_version=4)
    strict = notebooks.strict_cells(notebook)
    result = nbval(path, offline)
    with capsys.disabled():
        print(f"\n{name}: {len(notebooks.code_cells(notebook))} cells executed offline, "
              f"{len(strict)} with strictly checked output; {result.stdout.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stdout[-6000:]
    assert strict


def cell_file(folder, *sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    path = folder / "probe.ipynb"
    nbformat.write(notebook, path)
    return path


def test_the_network_is_really_blocked(offline, tmp_path):
    """Without this a notebook that downloads would pass."""
    path = cell_file(tmp_path, "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=3)")
    result = nbval(path, offline, seconds=120)
    assert result.returncode == 1
    assert "must run without a network" in result.stdout


def test_a_changed_number_fails(offline, tmp_path):
    path = cell_file(tmp_path, "# NBVAL_CHECK_OUTPUT\nprint(1 + 1)")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    nbformat.write(notebook, path)
    result = nbval(path, offline, seconds=120)
    assert result.returncode == 1
    assert re.search(r"1 failed", result.stdout)
