"""A real JupyterLab in a real browser: own folders, a copy of the notebooks, no request to outside."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300_000  # milliseconds: other work on the machine makes a page slow, not wrong
SCREENSHOTS = Path(__file__).parent / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
QUIET = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
         "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false",
                                                                            "checkForUpdates": False}}


def chromium() -> str:
    """The browser's path; without one the test skips and says why, on a build machine it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    sentence = "no Chromium on this machine (on Debian: apt install chromium)"
    if os.environ.get("CI"):
        pytest.fail(f"{sentence}; a build machine must not skip the browser tests.")
    pytest.skip(sentence)


@dataclass
class Lab:
    """A running JupyterLab and a page in the browser."""

    address: str
    token: str
    folder: Path
    page: object
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, notebook: str) -> None:
        """Opens a notebook of the copied folder and waits until its kernel is idle."""
        self.page.goto(f"{self.address}/lab/tree/{notebook}?reset&token={self.token}")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook")
        self.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")
        self.page.locator(".jp-KernelName", has_text="Python 3").first.wait_for()

    def run_cells(self, name: str, cells: Sequence[str]) -> None:
        """Writes a notebook of these cells into the folder, opens it and runs it."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)",
                                           "language": "python"}
        nbformat.write(notebook, self.folder / f"{name}.ipynb")
        self.open(f"{name}.ipynb")
        self.run_all()

    def refuse_complaints(self) -> None:
        """Fails where the page logged an error or asked for anything outside this machine."""
        assert not self.errors, self.errors
        assert not self.outside, self.outside

    def run_all(self, seconds: int = 600) -> None:
        """Runs every cell of a notebook without outputs, waits until each has a number; fails on the first error."""
        deadline = time.monotonic() + seconds
        started = """() => [...document.querySelectorAll('.jp-InputPrompt')]
            .some(prompt => /[*\\d]/.test(prompt.textContent))"""
        while not self.page.evaluate(started):  # a request before the kernel is connected is lost
            assert time.monotonic() < deadline, "no cell ever started"
            self._answer_dialogs()
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            self.page.wait_for_timeout(3000)
        unfinished = """() => [...document.querySelectorAll('.jp-CodeCell')].filter(cell =>
            cell.querySelector('.jp-InputArea-editor').textContent.trim() &&
            !/\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent)).length"""
        while self.page.evaluate(unfinished):
            self._refuse_errors()
            assert time.monotonic() < deadline, "the notebook did not finish in time"
            self.page.wait_for_timeout(500)
        self._refuse_errors()

    def _answer_dialogs(self) -> None:
        """Accepts what JupyterLab proposes, for instance the notebook's own kernel when the first is slow to come."""
        buttons = self.page.locator(".jp-Dialog .jp-mod-accept")
        while buttons.count():
            buttons.first.click()
            self.page.wait_for_timeout(500)

    def _refuse_errors(self) -> None:
        kinds = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr"))
        errors = [text for text in self.page.locator(kinds).all_inner_texts() if "Traceback" in text]
        assert not errors, errors[0][-2000:]

    def widget(self, name: str):
        """The first widget of a kind, scrolled into view."""
        widget = self.page.locator(f'.dl-widget[data-widget="{name}"]').first
        widget.wait_for()
        widget.scroll_into_view_if_needed()
        return widget

    def screenshot(self, name: str) -> None:
        """Keeps a picture of the page for people to look at."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "src"))
    for path in folder.glob("*.ipynb"):
        _clear(path)
    port, token = _free_port(), secrets.token_hex(16)
    server = _start_server(home, folder, port, token)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 950})
            page.set_default_timeout(PATIENCE)
            lab = Lab(f"http://127.0.0.1:{port}", token, folder, page)
            page.on("console", lambda message: message.type == "error" and lab.errors.append(message.text))
            page.on("request", lambda request: _inside(request.url, port) or lab.outside.append(request.url))
            yield lab
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def widgets(lab: Lab, request) -> Iterator[Lab]:
    """JupyterLab with a notebook of a test file's CELLS, run; nothing may have been complained of at the end."""
    lab.run_cells(request.module.__name__, request.module.CELLS)
    yield lab
    lab.refuse_complaints()


def _clear(path: Path) -> None:
    """Removes stored outputs and numbers: what the test then sees was made in this browser."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def _inside(url: str, port: int) -> bool:
    return url.startswith((f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}", "data:", "blob:"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start_server(home: Path, folder: Path, port: int, token: str) -> subprocess.Popen:
    """JupyterLab with folders of its own, so that nobody's settings count and nothing of it is left."""
    folders = {name: str(home / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}
    for name, content in QUIET.items():
        path = Path(folders["JUPYTERLAB_SETTINGS_DIR"]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={folder}"]
    log = (home / "server.log").open("w")
    server = subprocess.Popen(command, env={**os.environ, **folders}, stdout=log, stderr=log)
    for _ in range(1200):  # a busy machine takes minutes
        assert server.poll() is None, (home / "server.log").read_text()[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2)
            return server
        except OSError:
            time.sleep(0.25)
    server.terminate()  # or it would outlive the test
    raise AssertionError((home / "server.log").read_text()[-2000:])
