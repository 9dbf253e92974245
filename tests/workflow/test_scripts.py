"""The workflow's scripts: GPUs leased to one job each, photos unpacked and nothing else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
SHOW = [sys.executable, "-c", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES')); input()"]


def start(folder: Path, count: int, **environment: str) -> subprocess.Popen:
    """A job with `count` leased GPUs that tells which, and ends when its input does."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")}
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "lease_gpus.py", str(count), *SHOW], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=inherited | {"TMPDIR": str(folder)} | environment,
    )  # fmt: skip


def test_two_jobs_at_once_get_different_gpus_and_a_third_waits(tmp_path):
    jobs = [start(tmp_path, 2, CUDA_VISIBLE_DEVICES="3,4,5,6") for _ in range(2)]
    seen = [set(job.stdout.readline().strip().split(",")) for job in jobs]
    assert seen[0] | seen[1] == {"3", "4", "5", "6"} and not seen[0] & seen[1]
    third = start(tmp_path, 1, CUDA_VISIBLE_DEVICES="3,4,5,6")
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(timeout=1)
    jobs[1].kill()  # however a job ends, its GPUs are free again
    assert third.stdout.readline().strip() in seen[1]
    for job in (*jobs, third):
        job.communicate("\n")


def test_a_job_without_gpus_sees_none_and_under_slurm_is_left_as_it_is(tmp_path):
    assert start(tmp_path, 0, SLURM_JOB_ID="7").communicate("\n")[0].strip() == "None"
    assert start(tmp_path, 0, CUDA_VISIBLE_DEVICES="3").communicate("\n")[0] == "\n"
    assert not list(tmp_path.iterdir())


def test_two_jobs_in_one_slurm_allocation_get_different_gpus_and_two_allocations_do_not_wait(tmp_path):
    jobs = [start(tmp_path, 1, SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0,1") for _ in range(2)]
    assert {job.stdout.readline().strip() for job in jobs} == {"0", "1"}
    other = start(tmp_path, 1, SLURM_JOB_ID="8", CUDA_VISIBLE_DEVICES="0")  # its 0 is another GPU
    assert other.stdout.readline().strip() == "0"
    for job in (*jobs, other):
        job.communicate("\n")


A, B, PART, OTHER = "GPU-aaaa-1", "GPU-bbbb-2", "MIG-cccc-3", "MIG-dddd-4"
LISTED = f"""GPU 0: NVIDIA A100 (UUID: {A})
GPU 1: NVIDIA A100 (UUID: {B})
  MIG 3g.20gb     Device  0: (UUID: {PART})
  MIG 3g.20gb     Device  1: (UUID: {OTHER})
"""


@pytest.fixture
def smi(tmp_path):
    """A PATH with a machine of two GPUs, one of them in two parts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    "named, count, seen",
    [
        (None, 3, {A, PART, OTHER}),  # a GPU in parts is leased by them
        ("1,0", 2, {B, A}),
        (f"{PART[:8]}", 1, {PART}),
        ("MIG-GPU-0a1b/7/0", 1, {"MIG-GPU-0a1b/7/0"}),
        ("0,0,1", 2, {A, B}),
    ],
)
def test_gpus_are_leased_by_uuid(tmp_path, smi, named, count, seen):
    given = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    output, errors = start(tmp_path, count, PATH=smi, **given).communicate("\n")
    assert set(output.strip().split(",")) == seen, errors


@pytest.mark.parametrize("named, count", [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0,7,1", 1), ("GPU-", 0), ("x", 0)])
def test_names_of_no_gpu_are_told(tmp_path, smi, named, count):
    job = start(tmp_path, 2, PATH=smi, CUDA_VISIBLE_DEVICES=named)
    assert f"CUDA_VISIBLE_DEVICES, which is {named!r}, names {count}" in job.communicate("")[1] and job.returncode == 1


def test_more_gpus_than_there_are_is_an_error(tmp_path):
    job = start(tmp_path, 2, CUDA_VISIBLE_DEVICES="0")
    assert "2 GPUs are asked for, and CUDA_VISIBLE_DEVICES, which is '0', names 1" in job.communicate("")[1]
    assert job.returncode == 1


def unpack(source: Path, target: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / "unpack_photos.py", source, target]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder such as `make photos` takes, with one photo a split."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for split in ("train", "test", "pretrain"):
        pack(folder / f"{split}.tar.gz", f"{split}/cat/1.jpg")
    for name in ("clip-photos.json", "clip-photos.safetensors"):
        (folder / name).write_text(name)
    return folder


def pack(archive: Path, name: str) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"photo"))


def test_photos_are_unpacked_once(photos, tmp_path):
    assert unpack(photos, tmp_path / "data").returncode == 0
    assert (tmp_path / "data" / "test" / "cat" / "1.jpg").read_bytes() == b"photo"
    (tmp_path / "data" / "train" / "cat" / "1.jpg").write_text("mine")
    assert unpack(photos, tmp_path / "data").returncode == 0
    assert (tmp_path / "data" / "train" / "cat" / "1.jpg").read_text() == "mine"


def test_no_archive_writes_outside_its_folder(photos, tmp_path):
    pack(photos / "test.tar.gz", "../../escaped.jpg")
    result = unpack(photos, tmp_path / "data")
    assert result.returncode == 1 and "test.tar.gz cannot be unpacked" in result.stderr
    assert not list(tmp_path.rglob("escaped.jpg")) and not (tmp_path / "data" / "test").exists()


def test_a_missing_archive_is_named(photos, tmp_path):
    (photos / "pretrain.tar.gz").unlink()
    assert "no pretrain.tar.gz in" in unpack(photos, tmp_path / "data").stderr
    assert not (tmp_path / "data").exists()
