"""What the machine does not allow ends a command with one sentence: memory, room, rights, libraries."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lanit.cli import main
from lanit.failures import ADVICE, explain
from lanit.files import naming, recognise, whole, write_whole

ROOT = Path(__file__).parents[1]


def run(
    *command: str, folder: Path, limits: dict[int, int] | None = None, path: str = ""
) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, under limits of the system."""

    def limit() -> None:
        for kind, value in (limits or {}).items():
            resource.setrlimit(kind, (value, value))

    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, preexec_fn=limit
    )


def says(result: subprocess.CompletedProcess) -> str:
    """The one line of a command that ended so."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


TEXTS = {"clip": {"model": "clip.json", "pretrained": "x.pt"}, "domains": ["a"], "templates": ["a {}"]}
EMBED = ["-m", "lanit", "embed", "texts", "--options", json.dumps(TEXTS), "--output", "texts.safetensors"]


@pytest.mark.parametrize("megabytes", [150, 300])
def test_a_limit_on_memory_is_named(tmp_path, megabytes):
    said = says(run(*EMBED, folder=tmp_path, limits={resource.RLIMIT_AS: megabytes * 2**20}))
    assert said.startswith("lanit embed: error: there is not enough memory (") and "`ulimit -v`" in said


@pytest.mark.parametrize(
    ("raised", "library"),
    [
        ("ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')", "libgomp.so.1"),
        ("OSError('libcudnn.so.9: cannot open shared object file: No such file or directory')", "libcudnn.so.9"),
        ("ImportError('/x/libtorch_cuda.so: undefined symbol: ncclCommWindow')", "/x/libtorch_cuda.so"),
    ],
)
def test_a_library_that_torch_lacks_is_named(tmp_path, raised, library):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise {raised}\n", encoding="utf-8")
    said = says(run(*EMBED, folder=tmp_path, path=str(tmp_path)))
    assert f"the library {library} cannot be loaded" in said and "install torch and torchvision anew" in said


def test_a_package_that_is_missing_is_named(tmp_path):
    (tmp_path / "torch.py").write_text("import no_such_package\n", encoding="utf-8")
    assert "the Python package no_such_package is not installed here" in says(
        run(*EMBED, folder=tmp_path, path=str(tmp_path))
    )


def test_a_fault_of_the_program_keeps_its_trace(tmp_path):
    (tmp_path / "torch.py").write_text("raise ValueError('a fault')\n", encoding="utf-8")
    result = run(*EMBED, folder=tmp_path, path=str(tmp_path))
    assert result.returncode == 1 and "Traceback" in result.stderr and "a fault" in result.stderr


def test_a_file_larger_than_the_system_takes(tmp_path):
    """As a full disk says it, from the kernel: of a parquet table and of a file written whole."""
    splits = {"train": {"images": 900, "seed": 1}, "test": {"images": 40, "seed": 2}}
    shards = {"source": {"kind": "faces", "splits": splits}, "size": 32, "shards": dict.fromkeys(splits, 1)}
    options = ["--options", json.dumps(shards)]
    plan = run("-m", "lanit", "shard", "plan", *options, "--output", "plan.parquet", folder=tmp_path,
               limits={resource.RLIMIT_FSIZE: 4096})  # fmt: skip
    assert "plan.parquet cannot be used (" in says(plan) and "`ulimit -f`" in says(plan)
    assert not list(tmp_path.iterdir())
    assert main(["shard", "plan", *options, "--output", str(tmp_path / "plan.parquet")]) == 0
    tar = ["--split", "train", "--shard", "0", "--output", "train-0.tar", "--index", "train-0.parquet"]
    write = run("-m", "lanit", "shard", "write", "--plan", "plan.parquet", *options, *tar, folder=tmp_path,
                limits={resource.RLIMIT_FSIZE: 65536})  # fmt: skip
    assert "train-0.tar cannot be used (File too large)" in says(write)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.parquet"]


def test_a_checkpoint_that_finds_no_room(tmp_path):
    code = (
        "import torch; from pathlib import Path; from lanit.failures import explain\n"
        "from lanit.training import checkpoint\n"
        "try: checkpoint.save(Path('.'), 7, {'weights': torch.zeros(100_000)})\n"
        "except OSError as error: print(explain(error))"
    )
    result = run("-c", code, folder=tmp_path, limits={resource.RLIMIT_FSIZE: 65536})
    assert result.stdout.startswith("000000007.pt cannot be used (File too large): "), result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", sorted(ADVICE))
def test_every_error_of_the_system_names_its_path_and_what_to_do(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError) as raised:
        write_whole(tmp_path / "file.json", "{}")
    said = explain(raised.value)
    assert ADVICE[number] in said and str(tmp_path / "file.json") in said and "\n" not in said


def test_a_name_is_given_to_errors_that_have_none_alone(tmp_path):
    with pytest.raises(OSError) as raised, naming(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as raised, whole(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert raised.value.filename == str(tmp_path / "source")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory (MemoryError)"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"),
            "(CUDA out of memory. Tried to allocate 2 GiB)",
        ),
        (ImportError("a page\nx.so: failed to map segment from shared object\nmore"), "(x.so: failed to map segment"),
        (OSError("Cannot open for reading: path 'x' is a directory"), "path 'x' is a directory"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "the Python package x is not installed"),
    ],
)
def test_what_libraries_say_in_words_of_their_own(error, said):
    assert said in explain(error)


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), KeyError("x"), RuntimeError("shapes do not match"), OSError()]
)
def test_what_is_the_program_s_is_not_explained(error):
    assert explain(error) is None


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 2\n", "a Git LFS pointer"),
        (b"\n<!doctype HTML>\n", "a web page"),
        (b"PK\x03\x04", None),
    ],
)
def test_what_is_often_in_the_place_of_a_file_is_known(tmp_path, content, what):
    (tmp_path / "file").write_bytes(content)
    found = recognise(tmp_path / "file")
    assert found is None if what is None else found.startswith(what)


def test_a_run_whose_model_is_a_pointer_and_a_run_that_is_a_file(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    record = dict.fromkeys(("dataset", "seed", "images_seen", "train_seconds", "code", "config"), 1)
    options = {"size": 16, "domains": ["a"], "settings": {}, "language": None}
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(record | {"method": "tunit", "domains": ["a"], "options": options}), encoding="utf-8"
    )
    (tmp_path / "run" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "photo.png").write_bytes(b"")
    use = ["--source", str(tmp_path / "photo.png"), "--text", "cluster 1", "--output", str(tmp_path / "out.png")]
    assert main(["apply", "--run", str(tmp_path / "run"), *use]) == 2
    assert "run/model.safetensors is a Git LFS pointer, not the file itself; fetch" in capsys.readouterr().err
    assert main(["apply", "--run", str(tmp_path / "photo.png"), *use]) == 2
    said = capsys.readouterr().err
    assert "photo.png" in said and len(said.strip().splitlines()) == 1


def test_the_limits_here_do_not_kill():
    """Python ignores the signal of a file that grows too large, and gets the error instead."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
