"""How the suite is shared among processes (`pytest -n 2`): threads to each, and which tests stay together."""

import os

# before anything brings in torch: the processes share the cores, as do the kernels and commands that they start
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0))
if WORKERS:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import pytest  # noqa: E402


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one file go to one process, where they share what is slow to make; the browser's to one, as they share
    a JupyterLab; and every notebook goes to whichever process is free."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.endswith("test_notebooks.py"):
                return nodeid
            return "browser" if "/browser/" in file else file

    return ByFile(config, log)
