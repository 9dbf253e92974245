"""Plots are the same wherever they are drawn: in a notebook, or beside somebody's own settings of matplotlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_sweep import score, write_run

ROOT = Path(__file__).parents[2]
OWN = "text.usetex: True\nfont.size: 30\nfigure.facecolor: black\nlines.linewidth: 9\nbackend: tkagg\n"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    for n in (4, 7):
        write_run(root, score(domains=n, mfid=20.0 + n))
    return root


def draw(sweep: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Compare in a process of its own, in `folder` and into it."""
    folder.mkdir(exist_ok=True)
    scores = sorted(str(path) for path in sweep.glob("*/*/*/scores.json"))
    command = [sys.executable, "-m", "lanit", "compare", "--scores", *scores, "--output", "."]
    unset = {key: value for key, value in os.environ.items() if not key.startswith("MPL")}
    return subprocess.run(
        command, cwd=folder, env=unset | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True
    )


def test_neither_a_notebooks_backend_nor_ones_own_settings_matter(sweep, tmp_path):
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "matplotlibrc").write_text(OWN)
    made = {
        "plain": draw(sweep, tmp_path / "plain"),
        "notebook": draw(sweep, tmp_path / "notebook", MPLBACKEND="module://matplotlib_inline.backend_inline"),
        "home": draw(sweep, tmp_path / "own", MPLCONFIGDIR=str(tmp_path / "home"), MPLBACKEND="nonsense"),
        "here": draw(sweep, tmp_path / "here"),
    }
    assert {name: done.returncode for name, done in made.items()} == dict.fromkeys(made, 0), made
    plots = [
        (tmp_path / name / "plots" / "faces-mfid.png").read_bytes() for name in ("plain", "notebook", "own", "here")
    ]
    assert len(plots[0]) > 1000 and len(set(plots)) == 1


def test_settings_that_cannot_be_read_are_named(sweep, tmp_path):
    """Matplotlib reads the file in the working folder while it is imported, whatever one does."""
    (tmp_path / "matplotlibrc").write_bytes("# größer\nfont.size: 30\n".encode("latin-1"))
    done = draw(sweep, tmp_path)
    assert done.returncode == 2 and "matplotlibrc in the working folder is no UTF-8 text" in done.stderr
    assert "Traceback" not in done.stderr
