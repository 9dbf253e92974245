"""Translation methods: each is one class with networks, losses, a step and a way to translate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit import catalogue
from lanit.config import LanitError
from lanit.files import recognise

if TYPE_CHECKING:
    import torch

    from lanit.methods.protocol import Method


def create_method(
    name: str,
    settings: dict[str, Any],
    size: int,
    domains: list[str],
    language: dict[str, Any] | None = None,
    labels_folder: Path | None = None,
    device: str | torch.device = "cpu",
) -> Method:
    """Build the method called `name` from its settings (strictly checked); see `lanit.methods.protocol.Method`.

    `language` and `labels_folder` go to a method that is led by language alone.
    """
    entry = catalogue.find(name)
    options = catalogue.read_settings(name, settings)
    options.check(size, len(domains))
    led = {"language": language, "labels_folder": labels_folder} if entry.supervision == "text" else {}
    return catalogue.load(entry.module)(options, size, domains, device=device, **led)


def load_method(run: Path, device: str | torch.device = "cpu") -> Method:
    """Load a trained method to translate with, from the folder of its run (`run.json`, `model.safetensors`)."""
    from safetensors.torch import load_model

    record, weights = Path(run) / "run.json", Path(run) / "model.safetensors"
    for path in (record, weights):
        if not path.is_file():
            raise LanitError(
                f"{run} holds no trained model: {path.name} is missing; give the folder of a finished training"
            )
        if foreign := recognise(path):
            raise LanitError(f"{path} is {foreign}")
    described = json.loads(record.read_text(encoding="utf-8"))
    options = described["options"]
    method = create_method(
        described["method"],
        options["settings"],
        options["size"],
        options["domains"],
        options["language"],
        device=device,
    )
    try:
        missing, unexpected = load_model(method.averaged, weights, strict=False, device=str(device))
    except RuntimeError as error:
        raise LanitError(f"{weights} does not fit the settings in {record}: {str(error).splitlines()[0]}") from None
    # Learned prompts are part of a model, and have done their part in its texts.safetensors.
    wrong = [*missing, *(name for name in unexpected if not name.startswith("prompts."))]
    if wrong:
        raise LanitError(
            f"{weights} does not fit the settings in {record}: {wrong[0]} is missing or has no place there"
        )
    return method
