"""Names: of files, any that a system allows; of classes, text that a caption can hold.

Within the project a file's name is its bytes as UTF-8; what is no UTF-8 stands as surrogates, whatever the locale. So a
name is the same text, and its image the same key, on every machine.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePosixPath

SEPARATORS = ("Cc", "Cs", "Zl", "Zp")  # categories of characters that would tear or break a line of text


def from_disk(name: str) -> str:
    """Return a name as the project holds it, of what Python's file functions gave."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def to_disk(name: str) -> str:
    """Return a name as Python's file functions take it."""
    return os.fsdecode(to_bytes(name))


def to_bytes(name: str) -> bytes:
    """Return the bytes of a name, as they are on the disk."""
    return name.encode("utf-8", "surrogateescape")


def is_text(name: str) -> bool:
    """Tell whether the bytes of a name are UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shown(name: str) -> str:
    """Return a name for people: on one line, what cannot be written as `\\x0a` or `\\xe9`."""
    if is_text(name) and not any(unicodedata.category(character) in SEPARATORS for character in name):
        return name
    shown = "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in name)
    return to_bytes(shown).decode("utf-8", "backslashreplace")


def as_text(name: str) -> str:
    """Return a name as text in NFC; one whose bytes are no UTF-8 is taken as Latin-1."""
    return nfc(name if is_text(name) else to_bytes(name).decode("latin-1"))


def nfc(text: str) -> str:
    """Return text with each accent joined to its letter: macOS takes them apart, and keyboards do not."""
    return unicodedata.normalize("NFC", text)


def class_name(folder_or_column: str) -> str:
    """Return how a class is called in a caption: in NFC, and underscores are spaces."""
    return " ".join(as_text(folder_or_column).replace("_", " ").split())


def stem(name: str, suffixes: tuple[str, ...]) -> str:
    """Return a path without its suffix, where that is one of those given, in any case."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in suffixes else name
