"""CLIP, frozen: an image tower E_V and a text tower E_L through open_clip.

A model is named by its open_clip name or by the path of its JSON configuration, its weights by an open_clip tag or by
the path of a checkpoint. Nothing is guessed: where name, weights and configuration do not go together, loading ends
with one sentence. A checkpoint does not tell its activation: OpenAI's weights need QuickGELU. For a tag, open_clip's
own table says so and is obeyed; for a checkpoint file the model's name decides (`ViT-B-32-quickgelu`, not `ViT-B-32`).
"""

from __future__ import annotations

import difflib
import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.factory import load_state_dict
from open_clip.pretrained import download_pretrained
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from lanit.config import LanitError


@dataclass(frozen=True)
class ClipOptions:
    """Which CLIP, and with which weights."""

    model: str  # an open_clip name ("ViT-B-32"), or the path of a JSON configuration
    pretrained: str  # an open_clip tag ("openai"), or the path of a checkpoint (.safetensors, or weights-only .pt)
    # How images come to the tower's size: with antialias, as CLIP was trained, or from corner to corner and without it,
    # as in LANIT's released code.
    resize: Literal["antialias", "corners"] = "antialias"


class Clip(nn.Module):
    """Both towers of a CLIP, frozen and always in evaluation mode, with gradients flowing through to the images.

    Attributes:
        width: k, the number of dimensions that images and texts share.
        logit_scale: the learned factor on the cosine (1 / temperature).
        image_size: height and width of the image tower's input in pixels.
    """

    def __init__(self, towers: open_clip.CLIP | open_clip.CustomTextCLIP, tokenizer: Any, width: int) -> None:
        super().__init__()
        self.towers = towers.requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = width
        self.logit_scale = float(towers.logit_scale.exp())
        self.pixels = Pixels(towers)
        self.image_size = self.pixels.size
        self.eval()

    def train(self, mode: bool = True) -> Clip:
        """Stay in evaluation mode whatever the module around it does: batch statistics belong to the frozen tower."""
        return super().train(False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the L2-normalised embeddings E_V (B, k), float32, of float images (B, 3, H, W) in [−1, 1]."""
        return F.normalize(self.towers.encode_image(self.pixels(images)).float(), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return the L2-normalised embeddings E_L (T, k), float32."""
        return F.normalize(self.project_text(texts), dim=-1)

    def project_text(self, texts: Sequence[str]) -> Tensor:
        """Return what the text tower puts out, before normalisation: (T, k) float32; errors as in `tokenize`."""
        return torch.cat([self.towers.encode_text(part).float() for part in self.tokenize(texts).split(256)])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return tokens (T, context length), int64, on the towers' device.

        Raises:
            LanitError: a text has more tokens than the tower reads; open_clip would cut it off.
        """
        tokens = self.tokenizer(list(texts)).to(self.pixels.mean.device)
        for text in self._cut_off(texts):
            raise LanitError(
                f"the prompt {text!r} is longer than the {tokens.shape[1]} tokens that the text tower reads; shorten it"
            )
        return tokens

    def _cut_off(self, texts: Sequence[str]) -> list[str]:
        length = self.tokenizer.context_length
        longer = self.tokenizer(["", *texts], context_length=2 * length)
        padding = longer[0, -1]
        return [text for text, tokens in zip(texts, longer[1:]) if bool((tokens[length:] != padding).any())]


class Pixels(nn.Module):
    """Images in [−1, 1] → the image tower's input: its size (bicubic with antialias), then its mean and deviation.

    The images are square, as all images of this project are. Values are not clipped after resizing, so that every pixel
    keeps its gradient; the few public models trained with another interpolation get theirs.
    """

    resize = "antialias"  # see ClipOptions
    mean: Tensor
    std: Tensor

    def __init__(self, towers: open_clip.CLIP | open_clip.CustomTextCLIP) -> None:
        super().__init__()
        preprocessing = towers.visual.preprocess_cfg
        size = towers.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.interpolation = preprocessing["interpolation"]
        device = towers.logit_scale.device
        # For y = (x + 1) / 2: (y − mean) / std = (x − (2 mean − 1)) / (2 std).
        mean, std = torch.tensor(preprocessing["mean"]), torch.tensor(preprocessing["std"])
        self.register_buffer("mean", (2 * mean - 1).view(1, 3, 1, 1).to(device), persistent=False)
        self.register_buffer("std", (2 * std).view(1, 3, 1, 1).to(device), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float64:
            images = images.float()  # of networks in half precision: their pixels are not rounded once more
        if images.shape[-2:] != self.size:
            corners = self.resize == "corners"
            images = F.interpolate(
                images, self.size, mode=self.interpolation, antialias=not corners, align_corners=corners
            )
        return (images - self.mean) / self.std


def load_clip(options: ClipOptions, device: str | torch.device = "cpu") -> Clip:
    """Load a CLIP with float32 weights, frozen, onto `device`.

    Raises:
        LanitError: no such model, no such weights, weights that do not fit, or a file that cannot be read.
    """
    name = find_model(options.model)
    tag = open_clip.get_pretrained_cfg(name, options.pretrained)
    path = _tagged(name, options.pretrained, tag) if tag else _local(name, options.pretrained)
    shapes = _read_shapes(path)
    try:
        towers = open_clip.create_model(
            name,
            pretrained=options.pretrained if tag else str(path),
            precision="fp32",
            device=device,
            force_quick_gelu=bool(tag.get("quick_gelu")),
        )
    except (RuntimeError, KeyError, AttributeError) as error:
        problem = _first_lines(error)
        raise LanitError(f"the checkpoint {path} does not fit the model {options.model}: {problem}") from None
    for key, value in towers.state_dict().items():  # open_clip resizes position embeddings that do not fit, silently
        if key in shapes and value.numel() > 1 and tuple(value.shape) != shapes[key]:
            raise LanitError(
                f"the checkpoint {path} does not fit the model {options.model}: {key} has shape {shapes[key]} in the "
                f"checkpoint and {tuple(value.shape)} in the model; give the configuration that it was trained with"
            )
    clip = Clip(towers, open_clip.get_tokenizer(name), open_clip.get_model_config(name)["embed_dim"])
    clip.pixels.resize = options.resize
    return clip


def find_model(model: str) -> str:
    """Return the open_clip name of a model, after registering it if it is the path of a JSON configuration.

    Raises:
        LanitError: there is no such name or file, or the file is not a configuration.
    """
    if not model.endswith(".json"):
        if model not in open_clip.list_models():
            close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "`open_clip.list_models()` lists them"
            raise LanitError(
                f"open_clip has no model {model!r}; {hint} (a model of your own is the path of its .json configuration)"
            )
        return model
    path = Path(model)
    if not path.is_file():
        raise LanitError(f"no CLIP configuration at {model}; give an open_clip name or the path of its JSON file")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LanitError(f"the CLIP configuration {model} is not valid JSON ({error})") from None
    given = config if isinstance(config, dict) else {}
    lacking = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in given]
    if lacking:
        raise LanitError(f"the CLIP configuration {model} lacks {', '.join(lacking)}; see open_clip's model_configs")
    if open_clip.get_model_config(path.stem) != config:  # the registry is rescanned at each addition
        open_clip.add_model_config(path)
    return path.stem


def _tagged(name: str, tag: str, settings: dict[str, Any]) -> Path:
    """Return the file of published weights, from open_clip's cache or the network."""
    try:
        return Path(download_pretrained(settings))
    except (OSError, RuntimeError, ValueError) as error:  # network and hub errors derive from these
        repository = settings.get("hf_hub", "").rstrip("/")
        source = f"open_clip_model.safetensors of {repository} (Hugging Face Hub)" if repository else settings["url"]
        model = f"{name}-quickgelu" if settings.get("quick_gelu") and not name.endswith("-quickgelu") else name
        raise LanitError(
            f"the weights {tag!r} of {name} are neither in the cache nor to be downloaded ({_first_lines(error)}); "
            f"fetch {source} on another machine, and give clip.pretrained its path and clip.model {model!r}"
        ) from None


def _local(name: str, pretrained: str) -> Path:
    path = Path(pretrained)
    if path.is_file():
        return path
    if path.suffix or os.sep in pretrained:
        raise LanitError(f"no CLIP checkpoint at {pretrained}; put the weights of {name} there or give their path")
    tags = open_clip.list_pretrained_tags_by_model(name)
    close = difflib.get_close_matches(pretrained, tags, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(tags)}" if tags else "it has none"
    raise LanitError(f"{name} has no weights tagged {pretrained!r}; {known} (your own are given by their path)")


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's tensors under open_clip's names."""
    try:
        state = load_state_dict(str(path), weights_only=True)
        return {key: tuple(value.shape) for key, value in state.items()}
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError, StopIteration, AttributeError) as error:
        raise LanitError(
            f"{path} cannot be read as CLIP weights ({_first_lines(error)}); give a .safetensors file or a PyTorch "
            "file that holds weights only (OpenAI's own .pt files hold code)"
        ) from None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:240].rstrip(":;. ") or type(error).__name__
