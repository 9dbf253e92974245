"""Language in training: CLIP's image tower on translations, and the texts, frozen or learned, that labels come from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lanit.config import LanitError, parse
from lanit.files import whole, write_whole
from lanit.language import pseudo_labels
from lanit.language.pseudo_labels import LabellerOptions

if TYPE_CHECKING:  # a trained run is read without CLIP
    import torch
    from torch import Tensor

    from lanit.language.learned import Prompts


@dataclass(frozen=True)
class LanguageOptions:
    """What a method that is led by language is told of it; what the label stage was told, and the choices beyond."""

    clip: dict[str, Any]  # a ClipOptions: the CLIP that made the labels
    templates: list[str]
    labeller: LabellerOptions = field(default_factory=LabellerOptions)
    prompts: Literal["frozen", "learned"] = "frozen"
    # Images that no candidate covers: never drawn, or in a domain of their own (the paper's first version).
    uncovered: Literal["left_out", "slack"] = "left_out"


class Guide:
    """Language as a method meets it while it trains.

    Attributes:
        clip: both towers, frozen.
        texts: the frozen u_1 … u_N and, last, the base prompt's u_p: (N + 1, k) float32, from the label stage.
        prompts: where `options.prompts` is learned; they start at `texts`.
    """

    def __init__(
        self, options: LanguageOptions, domains: list[str], labels_folder: Path, device: str | torch.device
    ) -> None:
        """Load CLIP, and the texts that the label stage used.

        Raises:
            LanitError: CLIP, templates, domains and the label stage's texts do not go together.
        """
        import torch

        from lanit.language.clip import ClipOptions, load_clip
        from lanit.language.learned import Prompts

        pseudo_labels.check_labeller(options.labeller, len(domains))
        path = Path(labels_folder) / "texts.safetensors"
        texts = pseudo_labels.choose(pseudo_labels.read_texts(path), domains)
        self.options = options
        self.clip = load_clip(parse(ClipOptions, options.clip, "language.clip"), device)
        self.texts = torch.from_numpy(np.concatenate([texts.domains, texts.base[None]])).to(device)
        if self.texts.shape[1] != self.clip.width:
            raise LanitError(
                f"{path} holds texts of {self.texts.shape[1]} dimensions and the CLIP {self.clip.width}; "
                "give language.clip the CLIP that made the labels"
            )
        self.prompts = Prompts(self.clip, domains, options.templates) if options.prompts == "learned" else None
        if self.prompts is not None:
            with torch.no_grad():
                cosines = (self.prompts() * self.texts).sum(dim=1)
            if cosines.min() < 0.9999:  # another device's rounding is far nearer than that
                raise LanitError(
                    f"learned prompts would not start at the texts in {path}; give language.clip and "
                    "language.templates what made the labels"
                )

    def similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return cosines (B, N + 1) float32 of images (B, 3, H, W) in [−1, 1] with texts (N + 1, k)."""
        import torch

        embeddings = self.clip.encode_image(images)
        with torch.autocast(images.device.type, enabled=False):  # they are compared with one another
            return embeddings @ texts.T

    def label(self, embeddings: Tensor, texts: Tensor) -> np.ndarray:
        """Return labels (M, N) bool of image embeddings (M, k), by the labeller, as the label stage computes them."""
        rows, features = embeddings.float().cpu().numpy(), texts.detach().float().cpu().numpy()
        return pseudo_labels.label(self.options.labeller, rows @ features[:-1].T, rows @ features[-1])


def write_language(
    folder: Path,
    clip: dict[str, Any],
    texts: Tensor,
    domains: Sequence[str],
    prompts: Prompts | None,
    changes: dict[str, Any] | None,
) -> None:
    """Write what a finished run needs of language beside its networks.

    That is `texts.safetensors`; where prompts learned `prompts.json`, with `templates` (see `Prompts.describe`) and
    `labels`; and the files of a local CLIP (see `carry_clip`).

    Args:
        folder: of the run.
        clip: the training's ClipOptions.
        texts: (N + 1, k), the base prompt last; what the averaged networks belong to.
        domains: the N names.
        prompts: what gave `texts`, where they learned.
        changes: of the labels (see `label_changes`), where prompts learned.
    """
    folder, features = Path(folder), texts.detach().float().cpu().numpy()
    pseudo_labels.write_texts(
        pseudo_labels.Texts(tuple(domains), features[:-1], features[-1]), folder / "texts.safetensors"
    )
    if prompts is not None:
        told = {"templates": prompts.describe(), "labels": changes}
        write_whole(folder / "prompts.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    carry_clip(clip, folder)


def carry_clip(clip: dict[str, Any], folder: Path) -> None:
    """Put a CLIP's local files into the folder of a run, as `clip.json` and `clip` with the checkpoint's suffix.

    Weights are linked where the file system can. The configuration is copied: people edit theirs in place.
    """
    import open_clip

    name, pretrained = clip["model"], Path(clip["pretrained"])
    if name.endswith(".json"):
        with whole(Path(folder) / "clip.json") as part:
            shutil.copyfile(name, part)
        name = Path(name).stem
    tag = open_clip.get_pretrained_cfg(name, clip["pretrained"])  # goes before a file of the same name, as in load_clip
    if pretrained.is_file() and not tag:
        with whole(Path(folder) / f"clip{pretrained.suffix}") as part:
            try:
                os.link(pretrained.resolve(), part)
            except OSError:  # another file system, or one without links
                shutil.copyfile(pretrained, part)


def find_clip(folder: Path, clip: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run's CLIP with the files that the run carries in place of the paths given then."""
    config = Path(folder) / "clip.json"
    weights = Path(folder) / f"clip{Path(clip['pretrained']).suffix}"
    found = dict(clip)
    if config.is_file():
        found["model"] = str(config)
    if weights.is_file():
        found["pretrained"] = str(weights)
    return found


def label_changes(before: np.ndarray, after: np.ndarray, domains: Sequence[str]) -> dict[str, Any]:
    """Return how labels (M, N) bool changed while prompts learned; all values are shares in [0, 1].

    `changed`: of all M × N entries, those that differ; `per_domain`: name → `before` and `after`, the images that have
    it, and `changed`; `without_before` and `without_after`: the images without a label.
    """
    changed = before != after
    return {
        "changed": float(changed.mean()),
        "per_domain": {
            domain: {
                "before": float(before[:, n].mean()),
                "after": float(after[:, n].mean()),
                "changed": float(changed[:, n].mean()),
            }
            for n, domain in enumerate(domains)
        },
        "without_before": float((~before.any(axis=1)).mean()),
        "without_after": float((~after.any(axis=1)).mean()),
    }
