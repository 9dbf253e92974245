"""Language in training: CLIP's image tower on translations, and the texts, frozen or learned, that labels come from."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lanit.config import LanitError, parse
from lanit.files import whole, write_whole
from lanit.language import pseudo_labels
from lanit.language.clip_options import WEIGHT_SUFFIXES
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
        pseudo_labels.check_clip(Path(options.clip["model"]), self.clip.digest, texts, path)
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
    made_by = carry_clip(clip, folder)
    written = pseudo_labels.Texts(tuple(domains), features[:-1], features[-1], made_by)
    pseudo_labels.write_texts(written, folder / "texts.safetensors")
    if prompts is not None:
        told = {"templates": prompts.describe(), "labels": changes}
        write_whole(folder / "prompts.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def carry_clip(clip: dict[str, Any], folder: Path) -> str | None:
    """Put a CLIP's local files into the folder of a run, and return its digest (see `ClipFiles`).

    They are `clip.json`, as the Hub has it: the architecture, the preprocessing and the activation that were chosen;
    `clip` with the checkpoint's suffix, linked where the file system can; and of the Hub's tokenizer and text tower
    what lay beside them. Of public weights nothing is carried. Where the files have gone since, that is said: the run
    is whole without.
    """
    from lanit.language.clip_files import find_clip_files
    from lanit.language.clip_options import ClipOptions

    try:
        files = find_clip_files(parse(ClipOptions, clip, "language.clip"))
    except LanitError as error:
        print(f"warning: {folder} does not carry its CLIP: {error}", file=sys.stderr, flush=True)
        return None
    if files.public:
        return files.digest
    weights = files.weights.path
    suffix = weights.suffix if weights.suffix in WEIGHT_SUFFIXES else ".safetensors"
    write_whole(Path(folder) / "clip.json", files.describe())
    with whole(Path(folder) / f"clip{suffix}") as part:
        try:
            os.link(weights.resolve(), part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(weights, part)
    beside = files.text_config()
    for file in [*files.tokenizer_files(), *([beside] if beside else [])]:
        with whole(Path(folder) / file.name) as part:
            shutil.copyfile(file, part)
    return files.digest


def find_clip(folder: Path, clip: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run's CLIP, with the files that the run carries in place of what was given then."""
    config = Path(folder) / "clip.json"
    weights = [path for suffix in WEIGHT_SUFFIXES if (path := Path(folder) / f"clip{suffix}").is_file()]
    if config.is_file() and weights:
        carried = {"model": str(config), "pretrained": str(weights[0])}
        carried |= {"resize": clip["resize"]} if "resize" in clip else {}
        # Of runs of earlier versions it is the architecture alone.
        return carried if "model_cfg" in json.loads(config.read_text(encoding="utf-8")) else clip | carried
    return clip | ({"pretrained": str(weights[0])} if weights else {})


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
