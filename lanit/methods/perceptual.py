"""Perceptual distances by name: from options to a `Perceptual` with its weights.

The distance itself is `lanit.networks.perceptual`'s. Loading stands here, because one kind looks through a CLIP, and
the networks' floor does not see the language's. Nothing is downloaded, and no file runs code: weights come from a
path, from torchvision's usual place or from inside an installed package, which is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lanit.config import LanitError, parse
from lanit.networks import perceptual as networks
from lanit.networks.judge import load_judge
from lanit.networks.perceptual import Perceptual
from lanit.settings.perceptual import ENLARGE_TO, PerceptualOptions

# Files within packages, and the SHA-256 that they have in lpips 0.1.4 and in stlpips_pytorch 0.0.2.
LPIPS_FILE = "weights/v0.1/alex.pth"
LPIPS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
STLPIPS_FILE = "weights/vST0.0/alex_shift_tolerant.pth"
STLPIPS_SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"


def load_perceptual(options: PerceptualOptions, device: str | torch.device = "cpu") -> Perceptual:
    """Load the distance that the options name, frozen, onto `device`.

    Raises:
        LanitError: an option is missing or out of place, or weights are missing or not what they should be.
    """
    options.check("perceptual")
    loaders: dict[str, Callable[[PerceptualOptions], Perceptual]]
    loaders = {"lpips": _lpips, "stlpips": _stlpips, "judge": _judge, "clip": _clip}
    with torch.random.fork_rng(devices=[]):  # networks are made before they are filled
        return loaders[options.kind](options).to(device)


class ClipTrunk(nn.Module):
    """The maps of a CLIP's image tower: of every block of a transformer, of the stem and every stage of a ResNet."""

    tower: Any  # open_clip's towers differ in class, and share this

    def __init__(self, pixels: nn.Module, tower: nn.Module):
        super().__init__()
        self.pixels, self.tower = pixels, tower

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.tower.forward_intermediates(self.pixels(images), intermediates_only=True)["image_intermediates"]


def _lpips(options: PerceptualOptions) -> Perceptual:
    """LPIPS, version 0.1, on torchvision's AlexNet."""
    alexnet = options.weights or _alexnet_path()
    linear = options.linear or _in_package("lpips", LPIPS_FILE, "linear")
    layers = networks.alexnet()
    prefix = "features."
    state = _read(alexnet, "AlexNet's weights by torchvision", _published(alexnet))
    _fill(layers, {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, alexnet)
    state = _read(linear, "LPIPS's linear weights", LPIPS_SHA256 if options.linear is None else "")
    return _on_imagenet(options, layers, networks.ALEXNET_TAPS, state, [alexnet, linear])


def _stlpips(options: PerceptualOptions) -> Perceptual:
    """Shift-tolerant LPIPS on its own AlexNet; one file holds everything."""
    path = options.weights or _in_package("stlpips_pytorch", STLPIPS_FILE, "weights")
    state = _read(path, "ST-LPIPS's AlexNet", STLPIPS_SHA256 if options.weights is None else "")
    layers = networks.shift_tolerant_alexnet()
    layer = re.compile(r"net\.slice\d\.(\d+\.\w+)")  # slices are counted through
    found = {match[1]: value for key, value in state.items() if (match := layer.fullmatch(key))}
    _fill(layers, found, path)
    return _on_imagenet(options, layers, networks.SHIFT_TOLERANT_TAPS, state, [path])


def _judge(options: PerceptualOptions) -> Perceptual:
    assert options.weights is not None  # or the check had ended it
    trunk = networks.JudgeTrunk(load_judge(options.weights))
    return Perceptual(f"judge-{_digest([options.weights])}", trunk)


def _clip(options: PerceptualOptions) -> Perceptual:
    from lanit.language.clip import ClipOptions, load_clip

    chosen = parse(ClipOptions, options.clip or {}, "perceptual.clip")
    clip = load_clip(chosen)
    tower: Any = clip.towers.visual
    if not hasattr(tower, "forward_intermediates"):
        raise LanitError(f"open_clip gives no intermediate features of {chosen.model}; choose another CLIP or kind")
    return Perceptual(f"clip-{str(clip.digest)[:8]}", ClipTrunk(clip.pixels, tower))


def _on_imagenet(
    options: PerceptualOptions, layers: nn.Sequential, taps: Sequence[int], state: dict[str, Tensor], files: list[Path]
) -> Perceptual:
    """A distance on AlexNet's maps; `state` has the weights of their channels as 1 × 1 convolutions."""
    weights = []
    for i, width in enumerate(networks.ALEXNET_WIDTHS):
        key = f"lin{i}.model.1.weight"
        weights.append(_checked(state, key, (1, width, 1, 1), files[-1]).flatten())
        if (weights[-1] < 0).any():
            raise LanitError(
                f"{files[-1]} has negative weights in {key}: no distance comes of them; give LPIPS's own file"
            )
    enlarge_to = options.enlarge_to or ENLARGE_TO
    name = f"{options.kind}-{_digest(files)}" + (f"-{enlarge_to}px" if enlarge_to != ENLARGE_TO else "")
    return Perceptual(name, networks.ImageNetTrunk(layers, taps, enlarge_to), weights)


def _alexnet_path() -> Path:
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise LanitError(
            f"no AlexNet at {path}; put {url} there, give perceptual.weights its path, "
            "or choose another perceptual.kind: stlpips needs no file beside its package"
        )
    return path


def _in_package(package: str, file: str, key: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LanitError(
            f"the weights {file} come with the package {package}, which is not installed; install the extra "
            f"lanit[perceptual], give perceptual.{key} the file's path, or choose another perceptual.kind"
        )
    return Path(next(iter(spec.submodule_search_locations))) / file


def _published(path: Path) -> str:
    """The beginning of the SHA-256 that torch's hub writes into a file's name, or nothing."""
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return found[1] if found else ""


def _read(path: Path, what: str, sha256: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file whose SHA-256 begins with `sha256`."""
    if not path.is_file():
        raise LanitError(f"no file at {path}; put {what} there or give their path")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise LanitError(f"{path} is damaged or another file: its SHA-256 is not {sha256[:12]}…; fetch {what} anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise LanitError(f"{path} cannot be read as {what} ({reason}); give a PyTorch file of weights alone") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LanitError(f"{path} holds something else than {what}; give a state dict")
    return state


def _fill(layers: nn.Sequential, state: dict[str, Tensor], path: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in layers.state_dict().items()}
    layers.load_state_dict({key: _checked(state, key, shape, path) for key, shape in wanted.items()}, assign=True)


def _checked(state: dict[str, Tensor], key: str, shape: tuple[int, ...], path: Path) -> Tensor:
    value = state.get(key)
    if value is None or tuple(value.shape) != shape or not value.is_floating_point() or not value.isfinite().all():
        found = "is missing" if value is None else f"has {value.dtype} of shape {tuple(value.shape)} in it"
        raise LanitError(f"{path} is another network's: {key} {found}, and finite numbers of shape {shape} are wanted")
    return value.float()


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(Path(path).read_bytes())
    return found.hexdigest()[:8]
