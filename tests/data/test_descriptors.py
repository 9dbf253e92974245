"""More files than may be open at once, read from threads."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lanit.data.descriptors import Descriptors


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """200 files whose bytes tell which they are."""
    paths = [tmp_path / f"{i:03d}" for i in range(200)]
    for i, path in enumerate(paths):
        path.write_bytes(b"----" + i.to_bytes(2, "big") * 50)
    return paths


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_stay_open_and_each_file_gives_its_own_bytes(files):
    before, descriptors = opened(), Descriptors(at_most=5)
    rng = np.random.default_rng(0)
    for i in rng.integers(0, 200, 600):
        assert descriptors.read(files[i], 4, 4 + 2 * int(i % 48)) == int(i).to_bytes(2, "big") * 2
        assert len(descriptors) <= 5 and opened() <= before + 6
    descriptors.close()
    assert opened() == before
    assert descriptors.read(files[7], 2, 4) == b"\x00\x07", "reading opens it again"
    del descriptors
    assert opened() == before


def test_the_least_recently_used_is_closed(files, monkeypatch):
    descriptors, paths, real = Descriptors(at_most=2), [], os.open
    monkeypatch.setattr(os, "open", lambda path, flags: paths.append(path) or real(path, flags))
    for i in (0, 1, 0, 2, 0, 1):
        descriptors.read(files[i], 2, 4)
    assert paths == [files[0], files[1], files[2], files[1]]


def test_a_file_is_not_closed_while_another_thread_reads_it(files, monkeypatch):
    """Else the number of its descriptor could be another file's by then."""
    descriptors, pread, started, go = Descriptors(at_most=1), os.pread, threading.Event(), threading.Event()

    def slowly(descriptor, size, offset):
        if size == 3:
            started.set()
            assert go.wait(10)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slowly)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(descriptors.read, files[9], 3, 4)
        assert started.wait(10)
        for i in range(10, 20):
            assert descriptors.read(files[i], 2, 4) == i.to_bytes(2, "big")
        go.set()
        assert first.result() == b"\x00\x09\x00"
    assert len(descriptors) == 1


def test_many_threads_read_many_files(files):
    descriptors = Descriptors(at_most=3)
    order = np.random.default_rng(1).integers(0, 200, 4000)
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda i: descriptors.read(files[i], 2, 4), order))
    assert read == [int(i).to_bytes(2, "big") for i in order] and len(descriptors) <= 3


def test_it_gives_back_its_own_where_the_process_has_none_left(files):
    descriptors = Descriptors(at_most=60)
    for path in files[:50]:
        descriptors.read(path, 2, 4)
    taken, limit = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened() + 20, limit[1]))
        while True:
            taken.append(os.open(files[0], os.O_RDONLY))
    except OSError:
        assert descriptors.read(files[60], 2, 4) == b"\x00\x3c" and len(descriptors) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for descriptor in taken:
            os.close(descriptor)


def test_a_file_that_is_gone_is_an_error(files):
    files[3].unlink()
    with pytest.raises(FileNotFoundError):
        Descriptors().read(files[3], 2, 4)


def test_two_thousand_shards_are_read_with_1024_descriptors(tmp_path):
    """Made as the stage makes them, one image a shard, and read in one process under the usual limit."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
import hashlib
from pathlib import Path
import numpy as np
from lanit.data.batches import ImageStore
from lanit.data.images import encode_png
from lanit.data.manifest import write_table
from lanit.data.tars import shard_path, write_shard

manifest = Path(sys.argv[1]) / "manifest.parquet"
columns = {name: [] for name in ("key", "split", "shard", "offset", "size", "sha256")}
for i in range(2000):
    data = encode_png(np.full((8, 8, 3), (i % 256, i // 256, 7), np.uint8))
    ((offset, size),) = write_shard(shard_path(manifest, "train", i), [(f"{i:016x}", data)])
    row = (f"{i:016x}", "train", i, offset, size, hashlib.sha256(data).hexdigest())
    for column, value in zip(columns.values(), row):
        column.append(value)
write_table(columns, manifest)
store = ImageStore(manifest, "train", cache_bytes=0)
order = np.random.default_rng(0).permutation(2000)
images = np.concatenate([store.read(rows).numpy() for rows in np.split(order, 20)])
assert (images[:, 0, 0, 0] + 256 * images[:, 1, 0, 0].astype(int) == order).all()
print(len(images))
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert run.stdout.strip() == "2000", run.stderr[-2000:]
