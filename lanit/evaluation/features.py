"""Feature extractors: a judge for small images, or Inception through clean-fid; never the CLIP a method trains with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lanit.config import LanitError


@dataclass(frozen=True)
class FeatureOptions:
    kind: Literal["judge", "inception"]
    weights: Path | None = None  # the judge; or Inception's file or its folder, and null for the user's cache


class Extractor(Protocol):
    """Images to features."""

    name: str  # kind and digest of the weights: numbers are comparable where it is the same
    classes: list[str] | None  # of the logits; None where there are none
    exclusive: bool | None  # has an image exactly one of the classes?

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 on the CPU of images (B, 3, H, W) uint8."""

    def logits(self, features: Tensor) -> Tensor | None:
        """Logits (B, K) float32 of features (B, D), or None from an extractor that judges nothing."""


def load_extractor(options: FeatureOptions, device: str = "cpu") -> Extractor:
    """Load the extractor that the options name.

    Raises:
        LanitError: the weights are missing or not what they should be.
    """
    if options.kind == "judge":
        if options.weights is None:
            raise LanitError("features.weights is missing: a judge is given by the path of its file")
        return JudgeExtractor(options.weights, device)
    return InceptionExtractor(options.weights, device)


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda" of "auto", "cpu" or "cuda"; auto is a GPU where there is one.

    Raises:
        LanitError: a GPU is asked for where there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LanitError("no CUDA device is available here; use --device cpu, or a machine with a GPU")
    return name


class JudgeExtractor:
    """Penultimate layer and logits of the judge at `weights`."""

    def __init__(self, weights: Path, device: str = "cpu"):
        from lanit.networks.judge import load_judge

        self.judge, self.device = load_judge(weights, device), device
        self.name = f"judge-{_digest(weights)}"
        self.classes: list[str] | None = self.judge.classes
        self.exclusive: bool | None = self.judge.exclusive

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        return self.judge.features(images.to(self.device)).float().cpu()

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        return self.judge.head(features.to(self.device)).float().cpu()


class InceptionExtractor:
    """Pool features (2048) of Inception, as clean-fid takes them: Pillow's bicubic, in floats, to 299 pixels."""

    classes: list[str] | None = None
    exclusive: bool | None = None

    def __init__(self, weights: Path | None, device: str = "cpu"):
        from cleanfid.resize import build_resizer

        from lanit.evaluation.inception import SHA256, find_inception, load_inception

        self.network = load_inception(find_inception(weights), device)
        self.device = device
        self.name = f"inception-{SHA256[:8]}"
        self.resize = build_resizer("clean")

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        # One image at a time, as clean-fid resizes them: to values in [0, 255], which may lie a little beyond.
        resized = np.stack([self.resize(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()])
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(self.device)
        return self.network.layers((batch - 128) / 128).flatten(1).float().cpu()

    def logits(self, features: Tensor) -> None:
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
