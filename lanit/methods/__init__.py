"""Translation methods: each is one class with networks, losses, a step and a way to translate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError, parse

if TYPE_CHECKING:
    from lanit.methods.protocol import Method


def create_method(
    name: str,
    settings: dict[str, Any],
    size: int,
    domains: list[str],
    labels_folder: Path | None = None,
    clip: dict[str, Any] | None = None,
    device: str = "cpu",
) -> Method:
    """Build the method called `name` from its settings (strictly checked); see `lanit.methods.protocol.Method`."""
    if name == "lanit":
        from lanit.methods.lanit import Lanit as chosen
        from lanit.methods.lanit import LanitOptions as options
    elif name == "tunit":
        from lanit.methods.tunit import Tunit as chosen
        from lanit.methods.tunit import TunitOptions as options
    else:
        raise LanitError(f"unknown method {name!r}; known are lanit and tunit")
    return chosen(parse(options, settings, f"train.{name}"), size, domains, labels_folder, clip, device)


def needs_labels(name: str) -> bool:
    """Does the method called `name` train on pseudo labels? Known without importing it."""
    return name == "lanit"


def load_method(run: Path, device: str = "cpu") -> Method:
    """Load a trained method to translate with, from the folder of its run (`run.json`, `model.safetensors`)."""
    from safetensors.torch import load_model

    record, weights = Path(run) / "run.json", Path(run) / "model.safetensors"
    for path in (record, weights):
        if not path.is_file():
            raise LanitError(
                f"{run} holds no trained model: {path.name} is missing; give the folder of a finished training"
            )
    described = json.loads(record.read_text())
    options = described["options"]
    method = create_method(described["method"], options["settings"], options["size"], options["domains"], device=device)
    try:
        load_model(method.averaged, weights, device=str(device))
    except RuntimeError as error:
        raise LanitError(f"{weights} does not fit the settings in {record}: {str(error).splitlines()[0]}") from None
    return method
