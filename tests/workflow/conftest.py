"""A place to run Snakemake in: the checkout's workflow, seen from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def snakemake(tmp_path: Path) -> Run:
    """Run Snakemake in `tmp_path`; see `runner`."""
    return runner(tmp_path)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, subprocess.CompletedProcess]:
    """The smoke sweep, run for real once: its folder, how to run Snakemake there, and what the run said."""
    folder = tmp_path_factory.mktemp("smoke")
    run = runner(folder)
    first = run("--cores", "2", overlays=[ROOT / "workflow" / "configs" / "smoke.yaml"], timeout=900)
    assert first.returncode == 0, first.stdout[-8000:]
    return folder, run, first


def runner(folder: Path) -> Run:
    """A function that runs Snakemake in `folder` on the checkout's Snakefile.

    It takes Snakemake's arguments, and `overlays`, mappings or paths that are laid over `config.yaml` in their order.
    """
    (folder / "workflow").symlink_to(ROOT / "workflow")  # the configurations name files in it

    def run(*arguments: str, overlays: Sequence[dict | Path] = (), timeout: float = 120) -> subprocess.CompletedProcess:
        paths = []
        for overlay in overlays:
            if isinstance(overlay, dict):
                path = folder / f"overlay{len(list(folder.glob('overlay*.yaml')))}.yaml"
                path.write_text(yaml.safe_dump(overlay, sort_keys=False))
                overlay = path
            paths.append(str(overlay))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
        if paths:
            command += ["--configfile", *paths]
        return subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=os.environ,
        )

    return run
