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

INCEPTION_FILE = "inception-2015-12-05.pt"  # the name under which clean-fid looks for its weights


@dataclass(frozen=True)
class FeatureOptions:
    kind: Literal["judge", "inception"]
    weights: Path | None = None  # the judge; or Inception's file or its folder, and null for clean-fid's usual place


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
    """Pool features (2048) of Inception by clean-fid's resizer (PIL bicubic, float, to 299 pixels) and wrapper."""

    classes: list[str] | None = None
    exclusive: bool | None = None

    def __init__(self, weights: Path | None, device: str = "cpu"):
        from cleanfid.resize import build_resizer

        path = _inception_weights(weights)
        self.device = device
        self.name = f"inception-{_digest(path)}"
        self.resize = build_resizer("clean")
        self.network = _open_inception(path, device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        # One image at a time, as clean-fid resizes them; its network takes values in [0, 255].
        resized = np.stack([self.resize(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()])
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()
        return self.network(batch.to(self.device)).float().cpu()

    def logits(self, features: Tensor) -> None:
        return None


def _inception_weights(weights: Path | None) -> Path:
    from cleanfid.downloads_helper import inception_url

    if weights is None:
        return _download_inception(Path("/tmp") / INCEPTION_FILE, inception_url)  # clean-fid's place, so shared with it
    path = weights / INCEPTION_FILE if weights.is_dir() else weights
    if path.name != INCEPTION_FILE:
        raise LanitError(f"features.weights is {weights}; clean-fid reads a file called {INCEPTION_FILE}: rename it")
    if not path.is_file():
        raise LanitError(f"no Inception weights at {path}; put the file from {inception_url} there")
    return path


def _download_inception(path: Path, url: str) -> Path:
    import http.client
    import os
    import tempfile

    from cleanfid.downloads_helper import check_download_inception

    if not path.is_file():
        try:
            # In a folder of its own, so that no other process takes a part for the whole.
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                check_download_inception(folder)
                os.replace(Path(folder) / path.name, path)
        except (OSError, http.client.HTTPException) as error:
            raise LanitError(
                f"cannot download Inception's weights ({error}); put {url} at {path}, "
                "or give its path as features.weights"
            ) from None
    return path


def _open_inception(path: Path, device: str) -> torch.nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        network = InceptionV3W(str(path.parent), download=False, resize_inside=False)
    except (RuntimeError, AttributeError) as error:
        raise LanitError(
            f"{path} is not clean-fid's TorchScript Inception ({str(error).splitlines()[0]}); "
            "remove it and download it again"
        ) from None
    return network.to(device).eval()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
