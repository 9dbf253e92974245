"""The judge's network: a small classifier whose features serve scores, and perceptual distances between images.

`lanit.evaluation.judge` trains it; whoever else needs one reads it from its file.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit.config import LanitError
from lanit.files import read_tensors


class Judge(nn.Module):
    """Three stages that halve the image and double the width, each with a residual block; their mean; a linear head."""

    def __init__(self, classes: list[str], exclusive: bool, size: int = 32, width: int = 16):
        super().__init__()
        self.classes, self.exclusive, self.size, self.width = list(classes), exclusive, size, width
        self.trunk = nn.Sequential(
            _convolution(3, width),
            _convolution(width, 2 * width, stride=2),
            _Residual(2 * width),
            _convolution(2 * width, 4 * width, stride=2),
            _Residual(4 * width),
            _convolution(4 * width, 8 * width, stride=2),
            _Residual(8 * width),
        )
        self.head = nn.Linear(8 * width, len(classes))

    def features(self, images: Tensor) -> Tensor:
        """Features (B, 8 · width) float32, not negative, of images (B, 3, H, W) uint8 of any size."""
        return self.trunk(self.prepare(images)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) uint8: for a softmax where classes are exclusive, else for sigmoids."""
        return self.head(self.features(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps after the first convolution and after each stage of float images (B, 3, H, W) in [-1, 1].

        The last one's mean over the image is `features`; gradients flow through to the images.
        """
        maps: list[Tensor] = []
        x = self.prepare((images + 1) * 127.5)
        for layer in self.trunk:
            x = layer(x)
            if not maps or isinstance(layer, _Residual):
                maps.append(x)
        return maps

    def prepare(self, images: Tensor) -> Tensor:
        """Images (B, 3, size, size) float in [-2, 2] of images (B, 3, H, W) in [0, 255], mostly uint8."""
        scaled = resize(images, self.size).div(63.75).sub_(2)
        return scaled.contiguous(memory_format=torch.channels_last)


def load_judge(path: Path, device: str = "cpu") -> Judge:
    """Read a judge that `save_judge` wrote, ready to judge.

    Raises:
        LanitError: the file is missing, is not a judge, or does not hold the judge that it describes.
    """
    state, about = read_tensors(path, ("classes", "exclusive", "size", "width"), "lanit evaluate judge")
    judge = Judge(about["classes"], about["exclusive"], about["size"], about["width"])
    try:
        judge.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise LanitError(f"{path} does not hold the judge that it describes ({problem}); train it again") from None
    return judge.to(device).to(memory_format=torch.channels_last).eval()


def resize(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, size, size), float32 or better, in the range of `images`; as they are where they have that size."""
    if images.dtype != torch.float64:
        images = images.to(torch.float32)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _convolution(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)
