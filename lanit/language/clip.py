"""CLIP, frozen: an image tower E_V and a text tower E_L through open_clip.

A model is named by its open_clip name, by the path of its JSON configuration, or by a folder as the Hub has it; its
weights by an open_clip tag, or by the path of a checkpoint. Nothing is guessed: where name, weights, preprocessing and
tokenizer do not go together, or something does not tell what it should, loading ends with one sentence (see
`lanit.language.clip_files`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from lanit.config import LanitError
from lanit.failures import is_out_of_memory
from lanit.language.clip_files import OPEN_CLIP_DEFAULT, ClipFiles, Preprocessing, find_clip_files
from lanit.language.clip_files import find_model as find_model
from lanit.language.clip_options import HUB_CONFIG, TOKENIZER, ClipOptions
from lanit.language.clip_weights import first_lines

Towers: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP | open_clip.CoCa


class Clip(nn.Module):
    """Both towers of a CLIP, frozen and always in evaluation mode, with gradients flowing through to the images.

    Attributes:
        width: k, the number of dimensions that images and texts share.
        logit_scale: the learned factor on the cosine (1 / temperature).
        image_size: height and width of the image tower's input in pixels.
        digest: of what it was made of (see `ClipFiles`), or None.
    """

    def __init__(
        self,
        towers: Towers,
        tokenizer: Any,
        width: int,
        preprocessing: Preprocessing = OPEN_CLIP_DEFAULT,
        digest: str | None = None,
    ) -> None:
        super().__init__()
        self.towers = towers.requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = width
        self.logit_scale = float(towers.logit_scale.exp())
        self.pixels = Pixels(towers, preprocessing)
        self.image_size = self.pixels.size
        self.digest = digest
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

    def __init__(self, towers: Towers, preprocessing: Preprocessing = OPEN_CLIP_DEFAULT) -> None:
        super().__init__()
        size = towers.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.interpolation = preprocessing.interpolation
        device = towers.logit_scale.device
        # For y = (x + 1) / 2: (y − mean) / std = (x − (2 mean − 1)) / (2 std).
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
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
        LanitError: no such model, no such weights, weights that do not fit, a file that cannot be read, or a tokenizer
            that is not here.
    """
    files = find_clip_files(options)
    tokenizer = _load_tokenizer(files)  # before the time that weights take
    towers = _build(files)
    _fill(towers, files)
    clip = Clip(towers.to(device), tokenizer, files.config["embed_dim"], files.preprocessing, files.digest)
    clip.pixels.resize = options.resize
    return clip


def _build(files: ClipFiles) -> Towers:
    """The towers with random weights, as `open_clip.create_model` makes them of a name."""
    config = copy.deepcopy(files.config)
    named = config["text_cfg"].get("hf_model_name")
    custom = config.pop("custom_text", False) or named
    kind = (open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP) if custom else open_clip.CLIP
    if named:  # a transformer of the Hub, whose shape its own configuration tells; its weights are in ours
        beside = files.text_config()
        config["text_cfg"] |= {"hf_model_name": str(beside.parent) if beside else named, "hf_model_pretrained": False}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    try:
        return kind(**config)
    except Exception as error:  # of open_clip, timm and transformers, for whatever a configuration may hold
        if is_out_of_memory(error):
            raise
        problem = first_lines(error)
        if named:
            raise LanitError(
                f"the text tower of {files.model} is {named} of the Hugging Face Hub, which cannot be made here "
                f"({problem}); put its config.json beside the weights, into {_place(files)}, and install the package "
                "transformers"
            ) from None
        raise LanitError(
            f"open_clip cannot make the model {files.model} ({type(error).__name__}: {problem}); see its model_configs"
        ) from None


def _fill(towers: Towers, files: ClipFiles) -> None:
    """Give the towers their weights: every tensor of the one has its place and shape in the other."""
    state = convert_state_dict(towers, files.weights.state)  # Apple's names
    if not hasattr(towers, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)  # open_clip's own, older ones
    own = towers.state_dict()
    if "logit_bias" in own:  # a sigmoid loss's, to no cosine's use: zero where a model was trained with another loss
        state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    for name in ("logit_scale", "logit_bias"):  # numbers, or lists of one number
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    state.pop("text.transformer.embeddings.position_ids", None)  # no weights, and in older files alone
    missing, unneeded = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or unneeded or shapes:
        problems = [f"{len(names)} tensors are {what} ({names[0]}, …)" for names, what in (
            (missing, "missing from it"), (unneeded, "more than the model has")) if names]  # fmt: skip
        if shapes:
            theirs, ours = tuple(state[shapes[0]].shape), tuple(own[shapes[0]].shape)
            problems.append(f"{shapes[0]} has shape {theirs} in the checkpoint and {ours} in the model")
        advice = "give the model or configuration that it was trained as"
        if any(name.startswith("vision_model.") for name in state):
            advice = "its names are those of transformers: fetch open_clip_model.safetensors, open_clip's form of it"
        raise LanitError(
            f"the checkpoint {files.weights.path} does not fit the model {files.model}: {', '.join(problems)}; {advice}"
        )
    towers.load_state_dict(state)


def _load_tokenizer(files: ClipFiles) -> Any:
    text = files.config["text_cfg"]
    length, options = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_kwargs")
    name = text.get("hf_tokenizer_name")
    if not name:
        tokenizer = open_clip.SimpleTokenizer(context_length=length, **options or {})
        if text.get("vocab_size", tokenizer.vocab_size) < tokenizer.vocab_size:
            raise LanitError(
                f"the text tower of {files.model} knows {text['vocab_size']} tokens, and open_clip's tokenizer has "
                f"{tokenizer.vocab_size}; give the name of its own as text_cfg.hf_tokenizer_name in the configuration"
            )
        return tokenizer
    own = files.tokenizer_files()
    source = str(own[0].parent) if own else name
    try:
        return HFTokenizer(source, context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options or {})
    except ModuleNotFoundError as error:
        raise LanitError(
            f"the words of {files.model} are cut by the tokenizer {name} of the Hugging Face Hub, which the Python "
            f"package {error.name} reads, and that is not here; pip install {error.name}"
        ) from None
    except Exception as error:  # of transformers and the Hub's client: no file, no network, damaged files, a package
        if is_out_of_memory(error):
            raise
        where = f"{source} does not hold" if own else "neither the network nor a cache has"
        raise LanitError(
            f"the words of {files.model} are cut by the tokenizer {name} of the Hugging Face Hub, which {where} in a "
            f"form that can be read ({first_lines(error)}); put its files ({', '.join(TOKENIZER[:3])}, …) beside the "
            f"weights, into {_place(files)}"
        ) from None


def _place(files: ClipFiles) -> str:
    return str(files.folders[-1]) if files.folders else f"a folder with the weights and {HUB_CONFIG}, and give that"
