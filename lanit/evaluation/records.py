"""What is known of a finished run, and of the images that it is scored on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit import catalogue
from lanit.config import LanitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_run(folder: Path) -> dict[str, Any]:
    """Return what run.json tells of a finished training.

    Raises:
        LanitError: it is missing, or lacks what scores are stored with.
    """
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LanitError(f"no run.json in {folder}; give the folder of a finished training") from None
    except ValueError:
        raise LanitError(f"{path} is not valid JSON; train the run again") from None
    needed = ("dataset", "method", "domains", "seed", "images_seen", "train_seconds", "code", "config")
    missing = [key for key in needed if key not in record]
    if missing:
        raise LanitError(f"{path} lacks {', '.join(missing)}; train the run again")
    return record


def read_split_truth(manifest: Path, split: str) -> tuple[list[str], NDArray[np.bool_], list[str]]:
    """Return the names of the C classes, the truth (n, C) of a split and its keys, in the manifest's order."""
    from lanit.data.manifest import read_truth

    truth = read_truth(manifest, split)
    values = truth.drop(columns="key")
    return list(values.columns), values.to_numpy(bool), list(truth["key"])


def domain_names(record: dict[str, Any]) -> list[str]:
    """What a run's domains are called: by their names, or as clusters by their number, where it found them itself."""
    if catalogue.find(record["method"]).is_labelled:
        return record["domains"]
    return [f"cluster {i + 1}" for i in range(record.get("clusters", len(record["domains"])))]
