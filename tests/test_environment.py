"""pip and conda give the same packages, and the two commands are what they promise to be."""

import re
from pathlib import Path

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def split(requirement):
    package, versions = re.match(r"([A-Za-z0-9_.-]+)(.*)", requirement).groups()
    return CONDA_NAMES.get(package, package).lower(), versions.replace(" ", "")


def from_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return {**dict(map(split, listed)), "python": project["requires-python"]}


def from_environment():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    flat = [row for row in listed if isinstance(row, str)]
    flat += [row for rows in listed if isinstance(rows, dict) for row in rows["pip"]]
    found = dict(split(row) for row in flat if not row.startswith("-e"))
    assert any(row == "-e ." for rows in listed if isinstance(rows, dict) for row in rows["pip"])
    del found["pip"]
    return found


def test_names_and_version_ranges_are_the_same():
    assert from_pyproject() == from_environment()


def test_every_range_has_both_ends():
    assert all(re.fullmatch(r">=[\d.]+,<[\d.]+", versions) for versions in from_pyproject().values())


def test_only_the_packages_named_are_installed():
    """A published package called utils would shadow everybody's; data and tests are never installed."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {path.parent.relative_to(ROOT).as_posix().replace("/", ".")
               for top in ("lessons", "utils", "experiments") for path in (ROOT / top).rglob("__init__.py")}
    assert set(packages) == present


def test_every_dependency_is_explained():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = {package for package in from_pyproject() if re.search(rf"\b{package}\b", text)}
    assert set(from_pyproject()) - named <= {"python"}
