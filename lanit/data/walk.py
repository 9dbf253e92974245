"""Files below a folder: which are images, and a count by kind of all that is left out: nothing goes in silence."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lanit.config import LanitError
from lanit.data.images import READ_WITH, is_image_name
from lanit.data.names import from_disk, shown

# Folders that desktops, network drives and notebooks make; those whose name begins with a point are hidden besides.
SYSTEM_FOLDERS = {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
SYSTEM_FOLDERS |= {"__macosx", "__pycache__"}


@dataclass
class LeftOut:
    """What lies among the images and is not taken: kind → how many, and the first of them."""

    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    folders: dict[str, tuple[int, str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)  # to folders that are listed already
    dead: list[str] = field(default_factory=list)  # links among the images to what is not there

    def add(self, kinds: dict[str, tuple[int, str]], kind: str, path: str) -> None:
        count, first = kinds.get(kind, (0, path))
        kinds[kind] = (count + 1, first)

    def notes(self, what: str) -> list[str]:
        """Return a sentence on each thing that was left out of the folder `what`; none where all was taken."""
        said = []
        if self.files:
            kinds = sorted(self.files.items(), key=lambda item: (-item[1][0], item[0]))
            named = ", ".join(f"{count:,} {kind} (the first {shown(first)})" for kind, (count, first) in kinds)
            help = sorted({READ_WITH[kind] for kind in self.files if kind in READ_WITH})
            said.append(f"left out of {what}: {named}" + "".join(f"; {text}" for text in help))
        if self.folders:
            kinds = sorted(self.folders.items(), key=lambda item: (-item[1][0], item[0]))
            named = ", ".join(f"{shown(kind)} ({count:,}, the first {shown(at)})" for kind, (count, at) in kinds)
            said.append(f"hidden and system folders in {what} are not searched: {named}")
        if self.links:
            said.append(
                f"{len(self.links):,} linked folders in {what} lead to folders that are searched anyway and are left "
                f"out, the first {shown(self.links[0])}"
            )
        if self.dead:
            said.append(
                f"{len(self.dead):,} images in {what} are dead links, the first {shown(self.dead[0])}: they count as "
                f"damaged; put back what they lead to, or remove them"
            )
        return said


def list_images(folder: Path, left_out: LeftOut, roots: Collection[Path] = (), within: str = "") -> list[str]:
    """Return the paths of the images in a folder, relative to it, sorted; in the form of `lanit.data.names`.

    Linked folders are searched, too, but for those that lead back to where is searched anyway.

    Args:
        folder: where to search.
        left_out: gets what is not taken.
        roots: resolved folders whose images the source lists as well.
        within: what the folder is called where something in it is named for people.

    Raises:
        LanitError: a folder cannot be listed.
    """
    roots = {folder.resolve(), *roots}
    found: list[str] = []
    seen: set[Path] = set()  # linked folders

    def search(directory: Path, relative: PurePosixPath) -> None:
        for entry in scan(directory):
            name = from_disk(entry.name)
            path, kind = relative / name, _kind(entry)
            at = str(within / path)
            if kind == "folder":
                if is_aside(name):
                    left_out.add(left_out.folders, name, at)
                elif not entry.is_symlink():
                    search(directory / entry.name, path)
                elif _leads_back(target := (directory / entry.name).resolve(), roots | seen):
                    left_out.links.append(at)
                else:
                    seen.add(target)
                    search(directory / entry.name, path)
            elif kind is not None:
                left_out.add(left_out.files, kind, at)
            elif not is_image_name(name):
                left_out.add(left_out.files, _other_kind(name), at)
            else:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    left_out.dead.append(at)
                found.append(str(path))

    search(folder, PurePosixPath())
    return sorted(found)


def scan(directory: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, in the order of names.

    Raises:
        LanitError: it cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise LanitError(
            f"the folder {directory} cannot be listed ({error.strerror}); make it readable, or move it elsewhere"
        ) from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    return _kind(entry) == "folder"


def is_aside(folder: str) -> bool:
    """Tell whether a folder is hidden, or one that systems make for themselves."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return None for a file and for a link to nothing, else what it is."""
    try:
        mode = entry.stat().st_mode if entry.is_symlink() or not (entry.is_dir() or entry.is_file()) else 0
        if mode == 0:
            return "folder" if entry.is_dir() else None
    except FileNotFoundError:
        return None if is_image_name(from_disk(entry.name)) else "dead links"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "folder"
    return None if stat.S_ISREG(mode) else "pipes, sockets or devices"


def _leads_back(target: Path, roots: set[Path]) -> bool:
    return any(target == root or root in target.parents or target in root.parents for root in roots)


def _other_kind(name: str) -> str:
    if name.startswith("."):
        return "hidden files"
    return PurePosixPath(name).suffix.lower() or "without a suffix"
