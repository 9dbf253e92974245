"""What methods there are: all that the rest of the house must know of one before it is imported. Needs no torch.

A method more is an entry here, its settings in `lanit/settings/`, a file in `lanit/methods/`, its networks, its tests.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

from lanit.config import LanitError, parse

Supervision = Literal["text", "truth", "none"]
EXTERNAL = "external"  # stands for the method where translations were made elsewhere: they are all that is known


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        name: as configurations, rules and folders of results have it.
        title: as tables and plots have it.
        supervision: what its training may read beside images: pseudo labels from `text`, labels of `truth`, or `none`.
        module: `module:class` that implements it (a `lanit.methods.protocol.Method`).
        settings: `module:dataclass` of its options; importing it needs no torch.
    """

    name: str
    title: str
    supervision: Supervision
    module: str
    settings: str

    @property
    def is_labelled(self) -> bool:
        """Does its training read labels, of whichever kind?"""
        return self.supervision != "none"


# In the order of the paper's Table 1: with labels, without, with names.
METHODS = {
    entry.name: entry
    for entry in (
        Entry(
            "stargan2",
            "StarGAN v2",
            supervision="truth",
            module="lanit.methods.stargan2:StarGan2",
            settings="lanit.settings.stargan2:StarGan2Options",
        ),
        Entry(
            "smoothing",
            "Smoothing",
            supervision="truth",
            module="lanit.methods.smoothing:Smoothing",
            settings="lanit.settings.smoothing:SmoothingOptions",
        ),
        Entry(
            "tunit",
            "TUNIT",
            supervision="none",
            module="lanit.methods.tunit:Tunit",
            settings="lanit.settings.tunit:TunitOptions",
        ),
        Entry(
            "style_aware",
            "Kim et al.",
            supervision="none",
            module="lanit.methods.style_aware:StyleAware",
            settings="lanit.settings.style_aware:StyleAwareOptions",
        ),
        Entry(
            "lanit",
            "LANIT",
            supervision="text",
            module="lanit.methods.lanit:Lanit",
            settings="lanit.settings.lanit:LanitOptions",
        ),
    )
}


def find(name: str) -> Entry:
    """Return the entry of a method.

    Raises:
        LanitError: there is none of that name.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(METHODS)}"
        raise LanitError(f"there is no method {name!r}; {hint}")
    return METHODS[name]


def read_settings(name: str, settings: dict[str, Any], where: str = "") -> Any:
    """Return a method's own options as its dataclass, every key, type and range checked.

    Args:
        name: of the method.
        settings: what the user gave.
        where: the path of `settings` in the configuration, for the message.

    Raises:
        LanitError: with the key and what would be right.
    """
    return parse(load(find(name).settings), settings, where or f"train.{name}.settings")


def load(place: str) -> Any:
    """Return what `module:name` names."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
