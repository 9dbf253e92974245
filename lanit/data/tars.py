"""Shards: WebDataset tars of `{key}.png` members and nothing else, the same bytes for the same images."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lanit.config import LanitError
from lanit.data.images import decode_png
from lanit.files import whole

END_OF_ARCHIVE = 1024  # bytes


def shard_path(manifest: Path | str, split: str, shard: int) -> Path:
    """Return where a shard lies: in the folder `shards` beside the manifest."""
    return Path(manifest).parent / "shards" / f"{split}-{shard}.tar"


def write_shard(path: Path | str, samples: Iterable[tuple[str, bytes]]) -> list[tuple[int, int]]:
    """Write PNG bytes by key as a WebDataset tar.

    Owner, mode and time are fixed, so that the same samples give the same bytes whoever writes them, and when.

    Returns:
        Per sample, in order, where its PNG bytes begin in the tar and how many there are.
    """
    from webdataset import TarWriter

    with whole(path) as part:
        owner = {"user": "lanit", "group": "lanit", "mode": 0o444, "mtime": 0}
        with open(part, "wb") as file, TarWriter(file, encoder=False, **owner) as writer:
            for key, data in samples:
                writer.write({"__key__": key, "png": data})
        with tarfile.open(part, "r:") as tar:
            return [(member.offset_data, member.size) for member in tar]


def stream(tar: Path | str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield key and image, uint8 (H, W, 3), of each sample of a shard, in the shard's order.

    Raises:
        LanitError: no such file, or it is not a complete shard.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with open(tar, "rb") as file:
            # Every tar ends with two blocks of zeros. One cut between two members would else just seem shorter.
            file.seek(max(0, os.fstat(file.fileno()).st_size - END_OF_ARCHIVE))
            if file.read() != bytes(END_OF_ARCHIVE):
                raise tarfile.ReadError("its end is missing")
            file.seek(0)
            for sample in group_by_keys(tar_file_expander([{"url": str(tar), "stream": file}])):
                yield sample["__key__"], decode_png(sample["png"])
    except FileNotFoundError:
        raise LanitError(f"no shard at {tar}; lanit shard write makes it") from None
    except (tarfile.TarError, OSError, KeyError) as error:
        raise LanitError(f"{tar} is not a complete shard ({error}); remove it and run shard write again") from None
