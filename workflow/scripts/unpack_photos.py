"""Unpack a folder of photos for `workflow/configs/photos.yaml`: python unpack_photos.py FROM TO.

FROM holds `train.tar.gz`, `test.tar.gz` and `pretrain.tar.gz`, each with one folder of class folders of its own name,
and `clip-photos.json` with `clip-photos.safetensors`. What is in TO already is left as it is.
"""

import os
import shutil
import sys
import tarfile
from pathlib import Path

ARCHIVES = ("train", "test", "pretrain")
FILES = ("clip-photos.json", "clip-photos.safetensors")


def unpack(source: Path, target: Path) -> None:
    """Fill `target` from `source`: an archive is either unpacked whole or not there.

    Raises:
        SystemExit: a file is missing, or an archive cannot be read or would write outside its folder.
    """
    for name in (*(f"{split}.tar.gz" for split in ARCHIVES), *FILES):
        if not (source / name).is_file():
            sys.exit(f"no {name} in {source}; give the folder of the photos, as in make photos PHOTOS=folder")
    target.mkdir(parents=True, exist_ok=True)
    for split in ARCHIVES:
        if not (target / split).is_dir():
            unpack_archive(source / f"{split}.tar.gz", split, target)
    for name in FILES:
        if not (target / name).is_file():
            shutil.copyfile(source / name, target / f"{name}.partial")
            os.replace(target / f"{name}.partial", target / name)


def unpack_archive(archive: Path, split: str, target: Path) -> None:
    """Unpack the folder `split` of `archive` into `target`, beside first, then renamed."""
    beside = target / f"{split}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(beside, filter="data")  # refuses links, devices and paths that lead out of the folder
    except (tarfile.TarError, OSError) as error:
        sys.exit(f"{archive} cannot be unpacked ({error}); fetch it anew")
    if not (beside / split).is_dir():
        sys.exit(f"{archive} holds no folder {split}; each archive holds one folder of its own name")
    os.replace(beside / split, target / split)
    shutil.rmtree(beside)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python unpack_photos.py FROM TO")
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
