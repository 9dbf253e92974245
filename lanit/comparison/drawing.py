"""Matplotlib with settings of our own: no notebook's MPLBACKEND, no matplotlibrc and no display matters to a plot."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lanit.config import LanitError


def load_matplotlib() -> ModuleType:
    """Import matplotlib as it comes; whatever uses it first must do so through this.

    Raises:
        LanitError: it reads the file `matplotlibrc` of the working folder, whatever one does, and cannot.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        os.environ["MATPLOTLIBRC"] = str(Path(spec.submodule_search_locations[0], "mpl-data", "matplotlibrc"))
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib
    except UnicodeDecodeError:
        raise LanitError("matplotlibrc in the working folder is no UTF-8 text; mend or remove it") from None
    return matplotlib


@contextlib.contextmanager
def drawing(style: Mapping[str, Any]) -> Iterator[None]:
    """Draw into memory with matplotlib's defaults and, over them, `style`."""
    matplotlib = load_matplotlib()
    matplotlib.use("agg")
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", matplotlib.MatplotlibDeprecationWarning
        )  # of defaults that are on their way out
        defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
        matplotlib.rcParams.update(defaults | dict(style))
        yield
