"""Whether a source has what is to be scored on it: said before anything runs. Needs nothing but Python."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError, parse
from lanit.data.names import nfc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Counts = dict[str, dict[str, int]]  # split → class → images that show it


@dataclass(frozen=True)
class Scored:
    """What will be scored: the evaluation classes, on which split, with how many nearest neighbours."""

    classes: tuple[str, ...]
    k: int = 5
    split: str = "test"


def check_scored(scored: Scored, counts: Counts, source: dict[str, Any]) -> None:
    """Refuse what could not be scored.

    Args:
        scored: what will be.
        counts: of the source.
        source: its options, for what to do about it.

    Raises:
        LanitError: fewer than two evaluation classes, one that the source does not have, a split that it does not have,
            or fewer than k + 1 images of a class in it.
    """
    classes, split, needed = [nfc(name) for name in scored.classes], scored.split, scored.k + 1
    if len(set(classes)) < 2:
        named = ", ".join(classes) or "none"
        raise LanitError(f"{named} is the only evaluation class; name two at least, between which to translate")
    if split not in counts:
        raise LanitError(f"evaluate.split is {split!r}, which the source does not have; it has {', '.join(counts)}")
    there = counts[split]
    for name in classes:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(there)}"
            raise LanitError(f"the evaluation class {name!r} is none of the source's; {hint}")
    few = sorted((there[name], name) for name in classes if there[name] < needed)
    if few:
        count, name = few[0]
        others = f" (and too few of {len(few) - 1} more classes)" if len(few) > 1 else ""
        raise LanitError(
            f"the {split} split has {count} images of {name!r}{others}, where density and coverage with their k = "
            f"{scored.k} nearest neighbours need {needed}: {_remedy(scored, counts, few, source)}"
        )


def check_pairs(scored: Scored, truth: NDArray[np.bool_], classes: Sequence[str]) -> None:
    """Refuse an evaluation class that nothing could be translated into, since whatever shows another shows it too.

    Args:
        scored: what will be; its classes are among the source's.
        truth: (n, C), which image of the split that is scored shows which class.
        classes: names of its columns.

    Raises:
        LanitError: with the class.
    """
    columns = [list(classes).index(nfc(name)) for name in scored.classes]
    for column in columns:
        others = truth[:, [other for other in columns if other != column]].any(axis=1)
        if not (others & ~truth[:, column]).any():
            raise LanitError(
                f"the {scored.split} split has no image of another evaluation class without {classes[column]!r}, into "
                f"which none can be translated then; leave it out of the evaluation classes"
            )


def check_card(path: Path, options: str, scored: Scored, source: dict[str, Any]) -> None:
    """Check what a dataset that is there already can tell; nothing where its card is of other options.

    Args:
        path: of `dataset.json`.
        options: digest of the options that the dataset would be made with now.
        scored: what will be scored.
        source: options of the source.

    Raises:
        LanitError: see `check_scored`.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(card, dict) and card.get("options") == options and isinstance(card.get("counts"), dict):
        check_scored(scored, card["counts"], source)


def parse_scored(values: dict[str, Any]) -> Scored:
    """Return what will be scored, of options as a command gets them."""
    return parse(Scored, values, "scored")


def _remedy(scored: Scored, counts: Counts, few: list[tuple[int, str]], source: dict[str, Any]) -> str:
    """Return which setting would be enough for all of the classes."""
    needed, split = scored.k + 1, scored.split
    remedies = []
    if source.get("kind") == "faces":
        remedies.append(f"raise source.splits.{split}.images")
    elif split == "test" and source.get("test_last") is not None:  # of each class, or of all images
        remedies.append("raise source.test_last" + (f" to {needed}" if source["kind"] == "folders" else ""))
    elif source.get(f"{split}_share"):
        share = max(needed / sum(counts[s].get(name, 0) for s in counts) for _, name in few)
        if share <= 0.5:
            remedies.append(f"raise source.{split}_share to {math.ceil(share * 100 - 1e-9) / 100:g}")
    if not remedies:
        remedies.append("add images")
    if few[0][0] >= 2:
        remedies.append(f"lower evaluate.k to {few[0][0] - 1}")
    return ", or ".join(remedies)
