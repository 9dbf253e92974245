"""Jobs through a real SLURM on this machine, where its packages are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = os.environ["PATH"] + ":/usr/sbin"
LACKING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=PATH) is None]


@pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)}: apt-get install slurm-wlm munge")
@pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started as root")
def test_jobs_run_through_slurm(tmp_path):
    """The shard stage of the smoke sweep, each job submitted by the profile that the README shows."""
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    # The pauses between questions to SLURM are for clusters.
    result = subprocess.run(
        [ROOT / "tests" / "workflow" / "slurm_cluster.sh", tmp_path / "slurm", sys.executable, "-m", "snakemake",
         "--snakefile", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles" / "slurm", "--retries", "0",
         "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
         "results-smoke/faces/shards/train-0.tar",
         "--configfile", "workflow/configs/smoke.yaml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        env=os.environ | {"PATH": PATH},
    )  # fmt: skip
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("has been submitted with SLURM jobid") == 2
    assert (tmp_path / "results-smoke" / "faces" / "shards" / "train-0.tar").is_file()
