"""The revision that a run is of: the checkout's own, and that of no repository around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASK = "from lanit.config import code_version; print(code_version())"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def repository(folder: Path) -> str:
    """Make a repository with one commit of all that is there; return its revision."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x", "--allow-empty"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]


def copied(folder: Path) -> Path:
    """The package in a folder, as a download has it."""
    shutil.copytree(ROOT / "lanit", folder / "lanit", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def told_by(checkout: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=checkout.parent, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_copy_inside_another_repository_has_no_revision(tmp_path):
    thesis = repository(tmp_path)
    assert told_by(copied(tmp_path / "lanit-main")) == "unknown"
    repository(tmp_path)  # committed with it, even
    assert told_by(tmp_path / "lanit-main") == "unknown" != thesis


def test_a_checkout_has_its_own_revision_wherever_git_is_told_to_look(tmp_path):
    revision = repository(copied(tmp_path / "checkout"))
    (tmp_path / "other").mkdir()
    repository(tmp_path / "other")
    assert told_by(tmp_path / "checkout") == revision
    other = {"GIT_DIR": str(tmp_path / "other" / ".git"), "GIT_WORK_TREE": str(tmp_path / "other")}
    assert told_by(tmp_path / "checkout", **other) == revision  # as in a hook of the other
    (tmp_path / "checkout" / "lanit" / "cli.py").write_text("")
    assert told_by(tmp_path / "checkout") == f"{revision}-dirty"
