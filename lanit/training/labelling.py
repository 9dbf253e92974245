"""The labels that a training draws by: read at its start, and made anew while prompts learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lanit import catalogue
from lanit.config import LanitError
from lanit.files import read_tensors
from lanit.language.pseudo_labels import Labels, advice, check_clip, check_supervision, read_labels, read_texts
from lanit.methods.protocol import LabelledMethod, LanguageMethod
from lanit.training.distributed import World
from lanit.training.feed import Feed
from lanit.training.options import TrainOptions


@dataclass(frozen=True)
class Inputs:
    """What a training reads; of the labels and the embeddings only what its method needs."""

    manifest: Path
    labels: Path | None = None  # folder of the label stage
    embeddings: tuple[Path, ...] = ()  # files of `lanit embed images`


def read_given(options: TrainOptions, inputs: Inputs) -> Labels | None:
    """Read the labels that the method trains on; None for a method that trains without.

    Raises:
        LanitError: there are none, or they are not of the method's supervision.
    """
    if not catalogue.find(options.method).is_labelled:
        return None
    if inputs.labels is None:
        raise LanitError(f"{options.method} trains on labels; give their folder with --labels")
    found = read_labels(inputs.labels, "train")
    check_supervision(found, inputs.labels, options.method)
    return found


class Labelling:
    """Gives a feed the labels of the label stage, and new ones as the method's prompts learn."""

    def __init__(
        self, method: LabelledMethod, options: TrainOptions, inputs: Inputs, found: Labels, feed: Feed, world: World
    ):
        """Give the feed the labels found in `inputs` (`read_given`).

        Raises:
            LanitError: they are of other images or of other domains, or hardly any is there.
        """
        self.method, self.options, self.feed, self.world = method, options, feed, world
        self.steps = options.steps
        self.embeddings: Tensor | None = None  # on the host, of the main process
        self._check(found, inputs)
        self.advice = "look at the classes that its truth has" if found.supervision == "truth" else ""
        if isinstance(method, LanguageMethod):
            language = method.language
            if language is None:
                raise LanitError(f"{options.method} learns by language; give train.language its clip and templates")
            self.advice = advice(language.labeller, language.templates, found.similarities, found.base)
            if language.prompts == "learned":
                if not inputs.embeddings:
                    raise LanitError(
                        "prompts that learn make labels anew from embeddings; give their files with --embeddings"
                    )
                if world.is_main:
                    self.embeddings = torch.from_numpy(_read_embeddings(inputs, found.keys))
        feed.label(method.extend_labels(found.labels), self.advice)

    def restore(self, labels: Tensor) -> None:
        """Go on with labels that a checkpoint holds."""
        self.feed.label(labels.numpy(), self.advice)

    def refresh(self, step: int) -> None:
        """Make the labels anew before this step, if they are due."""
        if isinstance(self.method, LanguageMethod) and self.method.relabels(step, self.options.progress(step)):
            # One process makes them for all: rounding elsewhere could tip a label.
            labels = None
            if self.world.is_main:
                assert self.embeddings is not None, "prompts learn with embeddings at hand"
                labels = self.method.relabel(self.embeddings)
            self.feed.label(self.world.broadcast(labels), self.advice)

    def next_refresh(self, step: int) -> int:
        """The first step after this one before which labels are made anew, or the end of the training."""
        if not isinstance(self.method, LanguageMethod):
            return self.steps
        later = range(step + 1, self.steps)
        due = (after for after in later if self.method.relabels(after, self.options.progress(after)))
        return next(due, self.steps)

    def _check(self, found: Labels, inputs: Inputs) -> None:
        options = self.options
        if list(found.keys) != self.feed.store.keys:
            raise LanitError(
                f"the labels in {inputs.labels} are not of the images in {inputs.manifest}; label them again"
            )
        if list(found.domains) != options.domains:
            raise LanitError(
                f"the labels in {inputs.labels} are of the domains {', '.join(found.domains)}, and "
                f"train.domains says {', '.join(options.domains)}; label the images again"
            )


def _read_embeddings(inputs: Inputs, keys: Sequence[str]) -> np.ndarray:
    """Embeddings (M, k) of the images `keys`, in their order, from `lanit embed images` with the labels' CLIP."""
    assert inputs.labels is not None, "prompts learn where there are labels"
    texts = read_texts(inputs.labels / "texts.safetensors")
    rows: dict[str, np.ndarray] = {}
    for path in inputs.embeddings:
        arrays, metadata = read_tensors(path, ("embeddings", "keys"), "lanit embed")
        check_clip(path, metadata.get("clip"), texts, inputs.labels)
        rows.update(zip(metadata["keys"], arrays["embeddings"], strict=True))
    missing = [key for key in keys if key not in rows]
    if missing:
        raise LanitError(
            f"{len(missing)} of {len(keys)} labelled images have no embedding in the files given; "
            "give those of all train shards"
        )
    return np.stack([rows[key] for key in keys])
