"""The house stays in order: who imports whom, what is documented, what never enters the repository."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "lessons").rglob("*.py"))
UTILS = sorted((ROOT / "utils").rglob("*.py"))
OPS = ["devices", "rotated", "boxes", "coding", "anchors", "nms", "matching", "roi", "position_sensitive", "masks",
       "keypoints", "losses", "proposals", "corners", "heatmaps", "attention", "agreement", "coco_metrics", "metrics",
       "panoptic_quality", "error_breakdown"]
DRAWING = {"matplotlib", "ipywidgets", "anywidget", "IPython", "seaborn", "plotly"}
NOTEBOOKS = sorted((ROOT / "notebooks" / "src").glob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]


def code_lines(node):
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_lessons_stand_on_torch_alone(path):
    found = imports(path)
    assert not {module for module in found if module.split(".")[0] in DRAWING | {"utils"}}
    assert not {module for module in found if module.startswith(("torchvision.ops", "torchvision.models"))}


def test_ops_import_only_downwards():
    for place, module in enumerate(OPS):
        path = ROOT / "lessons" / f"{module}.py"
        if path.exists():
            inside = {found.split(".")[1] for found in imports(path) if found.startswith("lessons.")}
            assert inside <= {*OPS[:place], "data"}, f"{module} imports {inside}"


@pytest.mark.parametrize("path", LESSONS + UTILS, ids=name)
def test_files_are_small_and_named_for_what_they_hold(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"misc", "common", "helpers", "util"}
    assert not any(module.endswith(".*") for module in imports(path))
    assert not re.search(r"^\s*sys\.path", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if path.stem == "__init__":
        kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}


@pytest.mark.parametrize("path", LESSONS + UTILS, ids=name)
def test_public_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file does not say what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [argument.arg for argument in arguments if argument.annotation is None]
            assert not bare, f"{node.name} does not say the type of {bare}"
            assert node.returns, f"{node.name} does not say what it returns"


def test_functions_fit_a_screen():
    lengths = {f"{name(path)}:{node.name}": code_lines(node) for path in LESSONS for node in functions(path)}
    assert max(lengths.values()) <= 40, max(lengths, key=lengths.get)
    assert statistics.median(lengths.values()) <= 9
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= 20


def test_importing_lessons_brings_nothing_but_itself():
    """`import lessons` must cost next to nothing: counted in modules, since times differ from machine to machine."""
    program = "import sys, torch; before = set(sys.modules); import lessons; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["lessons"]


def public_names():
    return {node.name for path in LESSONS for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")}


def test_no_notebook_defines_what_the_library_or_another_notebook_has():
    library, seen = public_names(), {}
    for path in NOTEBOOKS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name not in library, f"{path.name} defines the library's {node.name}"
                assert node.name not in seen, f"{node.name} stands in {path.name} and {seen.get(node.name)}"
                seen[node.name] = path.name


def tracked_text():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for file in listing.stdout.split():
        path = ROOT / file
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".js", ".css", ".ipynb", ".csv", ".json", ""}:
            yield path, path.read_text(encoding="utf-8", errors="ignore")


def test_nothing_of_one_machine_is_committed():
    machine = re.compile(r"(?<![\w.~])/(?:work|root|home/\w+|Users/\w+)/\w")
    for path, text in tracked_text():
        if path != Path(__file__).resolve():
            assert not machine.search(text), f"{name(path)}: {machine.search(text).group()}"


def test_the_right_utils_is_imported():
    import utils

    assert Path(utils.__file__).resolve().parents[1] == ROOT, "another package called utils shadows this collection's"
