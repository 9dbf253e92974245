"""A place to run Snakemake in: the checkout's workflow, seen from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def snakemake(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run Snakemake in `tmp_path` on the checkout's Snakefile, with overlays (mappings or paths) in their order."""
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    number = iter(range(100))

    def run(*arguments: str, overlays: list[dict | Path] = [], timeout: float = 120) -> subprocess.CompletedProcess:
        paths = []
        for overlay in overlays:
            if isinstance(overlay, dict):
                path = tmp_path / f"overlay{next(number)}.yaml"
                path.write_text(yaml.safe_dump(overlay, sort_keys=False))
                overlay = path
            paths.append(str(overlay))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
        if paths:
            command += ["--configfile", *paths]
        return subprocess.run(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            env=os.environ | {"COLUMNS": "1000"},
        )

    return run
