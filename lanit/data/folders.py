"""Images in class folders: `cat/1.jpg`, `dog/2.png`; splits in folders of their own, or by rule."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lanit.config import LanitError
from lanit.data.images import describe_resize, read_image
from lanit.data.listing import NEEDED, SPLITS, Listing, SplitRule, check_shares, class_name, in_val_share, is_image_name


@dataclass(frozen=True)
class FolderOptions:
    """Options of `kind: folders`: either `train` and `test` (and `val`, `pretrain`), or `root` with a rule.

    Attributes:
        val_share: part of what would be train otherwise, also of a folder `train`.
        names: folder → class name, where underscores to spaces is not enough.
        classes: folders to use, in this order; all, sorted, where it is left out.
    """

    kind: Literal["folders"]
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    pretrain: Path | None = None
    root: Path | None = None
    test_last: int | None = None
    test_share: float | None = None
    pretrain_share: float = 0.0
    val_share: float = 0.0
    names: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


class Folders:
    """Class folders as a source; each image has exactly one class."""

    def __init__(self, options: FolderOptions) -> None:
        self.options = options
        given = {split: folder for split in SPLITS if (folder := getattr(options, split)) is not None}
        ruled = options.test_last is not None or options.test_share is not None or options.pretrain_share != 0
        if options.root is not None and given:
            raise LanitError("source has both root and split folders; give root with a rule, or train and test")
        if options.root is None and not set(NEEDED) <= set(given):
            raise LanitError("source needs the folders train and test, or root with test_last or test_share")
        if given and ruled:
            raise LanitError("source gives split folders, so test_last, test_share and pretrain_share do not apply")
        if "val" in given and options.val_share:
            raise LanitError("source gives the folder val, so val_share does not apply; leave one of them out")
        shares = {"pretrain_share": options.pretrain_share, "val_share": options.val_share}
        check_shares(**shares)
        self.rule = None if given else SplitRule(options.test_last, options.test_share, **shares)
        self.directories = given or {"": options.root}

    def list(self) -> Listing:
        _check_apart(self.directories)
        files = {split: _list_classes(directory, split) for split, directory in self.directories.items()}
        folders = self._choose_classes(files)
        splits, names, truth = [], [], []
        for split, directory in self.directories.items():
            for index, folder in enumerate(folders):
                found = files[split][folder]
                if not found:
                    raise LanitError(f"{directory / folder} holds no JPEG, PNG or WebP image; add some or remove it")
                paths = [f"{split}/{folder}/{name}" if split else f"{folder}/{name}" for name in found]
                splits += self._split(split, paths, directory / folder)
                names += paths
                truth += [index] * len(paths)
        classes = tuple(self.options.names.get(folder, class_name(folder)) for folder in folders)
        return Listing(splits, names, np.eye(len(folders), dtype=bool)[truth], classes, exclusive=True)

    def read(self, name: str, size: int) -> np.ndarray:
        if self.rule is None:
            split, name = name.split("/", 1)
            return read_image(self.directories[split] / name, size)
        return read_image(self.directories[""] / name, size)

    def describe_resize(self, size: int) -> str:
        return describe_resize(size)

    def _split(self, given: str, paths: list[str], folder: Path) -> list[str]:
        if self.rule is not None:
            return self.rule.assign(paths, str(folder))
        share = self.options.val_share if given == "train" else 0.0
        return ["val" if in_val_share(path, share) else given for path in paths]

    def _choose_classes(self, files: dict[str, dict[str, list[str]]]) -> list[str]:
        everywhere = sorted(set().union(*files.values()))
        wanted = list(self.options.classes) if self.options.classes is not None else everywhere
        repeated = [folder for folder in wanted if wanted.count(folder) > 1]
        if repeated or not wanted:
            raise LanitError(f"source.classes {f'names {repeated[0]!r} twice' if repeated else 'is empty'}; mend it")
        for split, directory in self.directories.items():
            lacking = [folder for folder in wanted if folder not in files[split]]
            if lacking:
                raise LanitError(
                    f"the class folder {lacking[0]!r} is missing in {directory}"
                    f"{f' ({split})' if split else ''}, which has {', '.join(sorted(files[split])) or 'no folders'}; "
                    f"every class needs a folder in each split"
                )
        unknown = [folder for folder in self.options.names if folder not in wanted]
        if unknown:
            raise LanitError(f"source.names has {unknown[0]!r}, no class folder; there are {', '.join(wanted)}")
        return wanted


def _check_apart(directories: dict[str, Path]) -> None:
    """Splits must not overlap: no two directories may be the same or lie in each other."""
    resolved = {split: directory.resolve() for split, directory in directories.items()}
    for a, first in resolved.items():
        for b, second in resolved.items():
            if a != b and (first == second or first in second.parents):
                relation = "are the same folder" if first == second else "lie in each other"
                raise LanitError(
                    f"the splits {a} ({directories[a]}) and {b} ({directories[b]}) {relation}; images would be in "
                    f"both, so give each split its own folder"
                )


def _list_classes(directory: Path, split: str) -> dict[str, list[str]]:
    """Return class folder → sorted paths of the images below it, relative to that folder."""
    if not directory.is_dir():
        raise LanitError(
            f"no folder at {directory}: put the {f'{split} ' if split else ''}images (JPEG, PNG or WebP) there, one "
            f"folder per class, such as {directory / 'cat' / '1.jpg'}"
        )
    folders = sorted(e.name for e in os.scandir(directory) if e.is_dir() and not e.name.startswith("."))
    if not folders:
        raise LanitError(f"{directory} holds no class folders; put the images into one folder per class there")
    return {folder: _list_images(directory / folder) for folder in folders}


def _list_images(folder: Path) -> list[str]:
    found = []
    for parent, _, files in os.walk(folder):
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in files if is_image_name(name)]
    return sorted(found)
