"""Images in class folders: `cat/1.jpg`, `dog/2.png`; splits in folders of their own, or by rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lanit.config import LanitError
from lanit.data.images import KINDS, MAX_PIXELS, check_max_pixels, describe_resize, is_image_name, read_image
from lanit.data.listing import Listing
from lanit.data.names import as_text, class_name, from_disk, nfc, shown, to_disk
from lanit.data.splits import NEEDED, SPLITS, SplitRule
from lanit.data.walk import LeftOut, is_aside, is_folder, list_images, scan


@dataclass(frozen=True)
class FolderOptions:
    """Options of `kind: folders`: either `train` and `test` (and `val`, `pretrain`), or `root` with a rule.

    Attributes:
        val_share: part of what would be train otherwise, also of a folder `train`.
        names: folder → class name, where underscores to spaces is not enough.
        classes: folders to use, in this order; all, sorted, where it is left out.
        max_pixels: how many an image may have.
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
    max_pixels: int = MAX_PIXELS


class Folders:
    """Class folders as a source; each image has exactly one class."""

    def __init__(self, options: FolderOptions) -> None:
        self.options = options
        given = {split: folder for split in SPLITS if (folder := getattr(options, split)) is not None}
        self.rule = SplitRule(options.test_last, options.test_share, options.pretrain_share, options.val_share)
        if options.root is not None and given:
            raise LanitError("source has both root and split folders; give root with a rule, or train and test")
        if options.root is None and not set(NEEDED) <= set(given):
            raise LanitError("source needs the folders train and test, or root with test_last or test_share")
        if given and (self.rule.takes_test or options.pretrain_share):
            raise LanitError("source gives split folders, so test_last, test_share and pretrain_share do not apply")
        if "val" in given and options.val_share:
            raise LanitError("source gives the folder val, so val_share does not apply; leave one of them out")
        if options.root is not None:
            self.rule.check_takes_test()
        check_max_pixels(options.max_pixels)
        self.directories = given or {"": options.root}

    def listing(self) -> Listing:
        _check_apart(self.directories)
        found = {split: _list_classes(directory, split) for split, directory in self.directories.items()}
        if "" in found:
            _check_no_splits(self.directories[""], found[""])
        classes = self._choose_classes(found)
        _check_class_folders_apart([self.directories[s] / to_disk(found[s][c]) for s in found for c in classes])
        roots = {(self.directories[split] / to_disk(found[split][c])).resolve() for split in found for c in classes}
        splits, names, truth, notes = [], [], [], []
        for split, directory in self.directories.items():
            left_out = LeftOut()
            for index, key in enumerate(classes):
                folder = found[split][key]
                images = list_images(directory / to_disk(folder), left_out, roots, within=folder)
                if not images:
                    raise LanitError(_say_empty(directory / to_disk(folder), roots))
                paths = [f"{split}/{folder}/{name}" if split else f"{folder}/{name}" for name in images]
                splits += self._split(split, paths, directory / folder)
                names += paths
                truth += [index] * len(paths)
            notes += _loose_images(directory) + left_out.notes(str(directory))
        own = {as_text(folder): name for folder, name in self.options.names.items()}
        return Listing(
            splits,
            names,
            np.eye(len(classes), dtype=bool)[truth],
            tuple(nfc(own.get(key, class_name(key))) for key in classes),
            exclusive=True,
            notes=notes,
        )

    def read(self, name: str, size: int) -> np.ndarray:
        split = ""
        if "" not in self.directories:
            split, name = name.split("/", 1)
        return read_image(self.directories[split] / to_disk(name), size, self.options.max_pixels)

    def describe_resize(self, size: int) -> str:
        return describe_resize(size)

    def _split(self, given: str, paths: list[str], folder: Path) -> list[str]:
        """Return the split of each image of a class: by the rule, or of a folder `train` the share that is val."""
        if given in ("", "train"):
            return self.rule.assign(paths, shown(str(folder)))
        return [given] * len(paths)

    def _choose_classes(self, found: dict[str, dict[str, str]]) -> list[str]:
        """Return the folders' names as text: those wanted, in their order, or all."""
        everywhere = sorted(set().union(*found.values()))
        chosen = self.options.classes
        wanted = everywhere if chosen is None else [as_text(folder) for folder in chosen]
        repeated = [folder for folder in wanted if wanted.count(folder) > 1]
        if repeated or not wanted:
            raise LanitError(f"source.classes {f'names {repeated[0]!r} twice' if repeated else 'is empty'}; mend it")
        for split, directory in self.directories.items():
            lacking = [folder for folder in wanted if folder not in found[split]]
            if lacking:
                raise LanitError(
                    f"the class folder {lacking[0]!r} is missing in {directory}"
                    f"{f' ({split})' if split else ''}, which has {', '.join(sorted(found[split])) or 'no folders'}; "
                    f"every class needs a folder in each split"
                )
        unknown = [folder for folder in self.options.names if as_text(folder) not in wanted]
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


def _check_class_folders_apart(folders: list[Path]) -> None:
    """No class folder may be a link to another one: its images would be of two classes, or in two splits."""
    first: dict[Path, Path] = {}
    for folder in folders:
        there = first.setdefault(folder.resolve(), folder)
        if there is not folder:
            raise LanitError(
                f"the class folders {shown(str(there))} and {shown(str(folder))} are the same folder; remove the link"
            )


def _check_no_splits(root: Path, folders: dict[str, str]) -> None:
    """Refuse a root whose folders are splits: `train` and `test` would be taken for classes."""
    splits = [split for split in SPLITS if split in folders]
    if set(NEEDED) <= set(splits) and len(folders) == len(splits):
        given = ", ".join(f"{split}: {root / split}" for split in splits)
        raise LanitError(f"{root} holds no class folders but those of splits; in place of root, give source {given}")


def _list_classes(directory: Path, split: str) -> dict[str, str]:
    """Return the class folders: name as text → name as on the disk."""
    if not directory.is_dir():
        raise LanitError(
            f"no folder at {directory}: put the {f'{split} ' if split else ''}images ({KINDS}) there, one "
            f"folder per class, such as {directory / 'cat' / '1.jpg'}"
        )
    folders: dict[str, str] = {}
    for folder in sorted(from_disk(entry.name) for entry in scan(directory) if is_folder(entry)):
        if is_aside(folder):
            continue
        other = folders.setdefault(as_text(folder), folder)
        if other is not folder:
            raise LanitError(
                f"{directory} has two folders of the name {as_text(folder)!r}, written in different ways; put their "
                f"images into one"
            )
    if not folders:
        raise LanitError(f"{directory} holds no class folders; put the images into one folder per class there")
    return folders


def _say_empty(folder: Path, roots: set[Path]) -> str:
    """Return what is to be said of a class folder without an image that is read: what it holds in their place."""
    left_out = LeftOut()
    list_images(folder, left_out, roots)
    path = shown(from_disk(str(folder)))
    held = "".join(f" ({note})" for note in left_out.notes(path))
    return f"{path} holds no {KINDS} image{held}; add some or remove it"


def _loose_images(directory: Path) -> list[str]:
    loose = [name for e in scan(directory) if not is_folder(e) and is_image_name(name := from_disk(e.name))]
    if not loose:
        return []
    return [
        f"{len(loose):,} images lie in {directory} itself, in no class folder, and are left out (the first "
        f"{shown(loose[0])})"
    ]
