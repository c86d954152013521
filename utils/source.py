"""The library's own source, shown in the notebook, so that no code stands twice."""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def show_source(*objects: Callable[..., Any] | type) -> None:
    """Displays the source of functions, classes or methods as highlighted Python, with file and lines above."""
    from IPython.display import Markdown, display

    display(Markdown("\n\n".join(source_markdown(one) for one in objects)))


def source_markdown(target: Callable[..., Any] | type) -> str:
    """The source of one function, class or method as Markdown. Raises TypeError for anything else."""
    target = inspect.unwrap(target)
    if not (inspect.isfunction(target) or inspect.isclass(target) or inspect.ismethod(target)):
        raise TypeError(f"{target!r} has no Python source to show: give a function, a class or a method.")
    lines, start = inspect.getsourcelines(target)
    path = Path(str(inspect.getsourcefile(target))).resolve()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    code = textwrap.dedent("".join(lines)).strip()
    return f"`{name}`, lines {start} to {start + len(lines) - 1}\n\n```python\n{code}\n```"
