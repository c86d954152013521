"""How the suite is shared among processes (`pytest -n 2`): threads to each, and which tests stay together."""

import os

# before anything brings in torch: the processes share the cores, as do the kernels and commands that they start
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0))
if WORKERS:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import pytest  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file go to one process, where they share what is slow to make; the browser's to one, as they share
    a JupyterLab; and every notebook goes to whichever process is free."""
    for item in items:
        group = item.nodeid if item.get_closest_marker("notebook") else item.path.stem
        item.add_marker(pytest.mark.xdist_group("browser" if item.get_closest_marker("browser") else group))
