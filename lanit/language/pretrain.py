"""Trains a small CLIP from captions: what the demo has in place of public weights.

Radford et al. 2021: InfoNCE over the pairs of a batch, in both directions, with a learned temperature. At its optimum
the scaled cosine of an image and a caption is their pointwise mutual information, up to a constant, so that *how
captions are drawn* decides what the base prompt means. A caption's writer looks for some random attributes and names
those that are there, possibly none. The caption without a name is then about as probable beside every image and lies
near zero; one with a name lies above it beside images that show the attribute, and far below beside the others. That
is what the adaptive threshold needs.

Captions that occur several times in a batch stay negatives of one another's images. That does not move the optimum,
since the copies share one logit; leaving them out would, and would lift the frequent base prompt above the rarer
names.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor, nn
from torch.nn import functional as F

from lanit.config import LanitError
from lanit.files import write_tensors
from lanit.language.clip import Pixels, find_model
from lanit.language.clip_files import OPEN_CLIP_DEFAULT
from lanit.language.prompts import check_templates, fill

SPLIT = "pretrain"  # the only split whose truth may teach a CLIP: nothing is scored on it


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """How the small CLIP is trained."""

    model: str  # path of its open_clip JSON configuration
    templates: list[str]
    text_steps: int = 80  # first, on captions alone
    text_batch: int = 96
    steps: int = 480  # then, on images and captions; 100 core seconds in all
    batch: int = 64
    named: int = 4  # a caption names 0 to this many attributes
    captions: int = 3  # per image and step: the text tower costs a fraction of the image tower
    # Peaks. Convolutions bear, and small attributes need, a rate at which the text transformer learns hardly anything.
    image_learning_rate: float = 3e-3
    text_learning_rate: float = 1e-3
    weight_decay: float = 0.05  # AdamW's, on matrices and kernels
    seed: int = 0
    split: str = SPLIT


def pretrain(options: PretrainOptions, manifest: Path, output: Path) -> None:
    """Train the CLIP of `options` on split `pretrain` and write its weights as safetensors.

    On the CPU, with one number of threads, the same options and data give the same bytes. Prints its progress.

    Raises:
        LanitError: another split is asked for, there is no such split, or a caption is too long for the text tower.
    """
    from lanit.data.batches import ImageStore
    from lanit.data.manifest import read_truth

    _check(options)
    truth = read_truth(manifest, SPLIT)
    names = [column for column in truth.columns if column != "key"]
    if not len(truth) or not names:
        raise LanitError(f"{manifest} has no truth in split {SPLIT!r}, from which captions could be made")
    images = ImageStore(manifest, SPLIT).read(np.arange(len(truth)))
    print(f"{len(truth)} images, {len(names)} attributes, {options.steps} steps of {options.batch}", flush=True)
    towers = train_towers(options, images, truth[names].to_numpy(bool), names)
    _save(towers, open_clip.get_model_config(find_model(options.model)), Path(output))


def train_towers(options: PretrainOptions, images: Tensor, truth: np.ndarray, names: Sequence[str]) -> open_clip.CLIP:
    """Return the trained open_clip model.

    Args:
        images: uint8 (M, 3, H, W).
        truth: bool (M, K): which image shows which attribute.
        names: the K attributes, as captions name them.
    """
    name = find_model(options.model)
    text = open_clip.get_model_config(name)["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise LanitError(
            f"the words of {options.model} are cut by {text['hf_tokenizer_name']}, and a CLIP is trained here with "
            "open_clip's own tokenizer alone; choose another model"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        towers = open_clip.create_model(name).train()
        # Words as loud as they are to stay: at open_clip's start their places in the text outweigh them.
        nn.init.normal_(towers.token_embedding.weight, std=0.2)
    towers.visual.to(memory_format=torch.channels_last)  # a third less time on the CPU
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    tokenizer = open_clip.SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs") or {})
    tokens = Tokens(tokenizer, options, names)
    with tokens.compact(towers):
        _fit_texts(towers, tokens, options, truth, names)
        _fit(towers, tokens, options, images, truth, names)
    return towers.eval()


def draw_names(rng: np.random.Generator, shown: np.ndarray, most: int) -> np.ndarray:
    """Return the attributes that a caption names, at most `most`.

    Its writer looks for a random number of random attributes, each number from 1 to K equally likely, and names those
    that the image shows. Naming a random part of what is shown would do as well while images show few attributes;
    beside an image that shows many, each single name would become too rare to lie above the base prompt.

    Args:
        shown: bool (K,), what the image shows.
    """
    looked_for = rng.permutation(len(shown))[: rng.integers(1, len(shown) + 1)]
    return looked_for[shown[looked_for]][:most]


def info_nce(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of B images and the S captions of each, all L2-normalised.

    Args:
        images: (B, k).
        texts: (B, S, k).
        scale: 1 / temperature.
    """
    count = len(images)
    logits = scale * texts.flatten(0, 1) @ images.T  # (B S texts, B images)
    owner = torch.arange(count, device=images.device).repeat_interleave(texts.shape[1])
    to_images = F.cross_entropy(logits, owner)
    to_texts = -logits.log_softmax(dim=0).gather(1, owner[:, None]).mean()
    return (to_images + to_texts) / 2


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, shift by up to a sixteenth, change brightness and contrast, and add noise: (B, 3, H, W) in [−1, 1].

    A CLIP that has seen clean images alone is easily fooled, and a generator trained against it would learn to.
    """
    count, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low

    reach = max(1, height // 16)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    top = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, width - 1 - columns, columns) + left  # (B, W)
    rows = torch.arange(height) + top  # (B, H)
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    moved = moved.permute(0, 3, 1, 2) * uniform(0.85, 1.15) + uniform(-0.1, 0.1)
    return moved + torch.randn(moved.shape, generator=generator) * uniform(0.0, 0.05)


class Tokens:
    """Captions as token ids, in a vocabulary of only the words that occur.

    Almost all of the 49,408 tokens never occur in the captions; an optimiser that steps over all of their vectors
    would take longer than the towers. The short ids keep the order of the long ones, because open_clip finds the end
    of a text as its largest id.
    """

    def __init__(self, tokenizer: open_clip.SimpleTokenizer, options: PretrainOptions, names: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.length = tokenizer.context_length
        self.cache: dict[str, list[int]] = {}
        longest = sorted(names, key=lambda name: -len(tokenizer.encode(name)))[: options.named]
        ids = {0, tokenizer.sot_token_id, tokenizer.eot_token_id}
        for template in options.templates:
            ids.update(*(tokenizer.encode(fill(template, [name, name, name])) for name in [*names, ""]))
            ids.update(tokenizer.encode(fill(template, [])))
            caption = fill(template, longest)
            if len(tokenizer.encode(caption)) + 2 > self.length:
                raise LanitError(
                    f"the caption {caption!r} is longer than the {self.length} tokens that the text tower of "
                    f"{options.model} reads; raise its context_length or lower named"
                )
        self.ids = torch.tensor(sorted(ids))
        self.short = {long: short for short, long in enumerate(self.ids.tolist())}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return the short ids (B, context length) of captions, padded with 0."""
        rows = torch.zeros(len(captions), self.length, dtype=torch.long)
        for row, caption in zip(rows, captions):
            if caption not in self.cache:
                long = [self.tokenizer.sot_token_id, *self.tokenizer.encode(caption), self.tokenizer.eot_token_id]
                self.cache[caption] = [self.short[token] for token in long]
            row[: len(self.cache[caption])] = torch.tensor(self.cache[caption])
        return rows

    def compact(self, towers: open_clip.CLIP) -> _CompactEmbedding:
        """Return a context in which `towers` read short ids; after it the trained vectors are back in their places."""
        return _CompactEmbedding(towers, self.ids)


class _CompactEmbedding:
    def __init__(self, towers: open_clip.CLIP, ids: Tensor) -> None:
        self.towers, self.ids = towers, ids
        self.full: nn.Embedding = towers.token_embedding

    def __enter__(self) -> None:
        vectors = self.full.weight.detach()[self.ids].clone()
        self.towers.token_embedding = nn.Embedding.from_pretrained(vectors, freeze=False)

    def __exit__(self, *_: object) -> None:
        trained = self.towers.token_embedding.weight
        with torch.no_grad():
            self.full.weight[self.ids] = trained
        self.towers.token_embedding = self.full


def _fit_texts(
    towers: open_clip.CLIP, tokens: Tokens, options: PretrainOptions, truth: np.ndarray, names: Sequence[str]
) -> None:
    """Let the text tower tell captions apart before it meets an image: two wordings of the same names are a pair.

    From a fresh start all captions look alike, and an attribute is learned only once its word and its looks have found
    each other; the small ones never do in the time there is. With words that stand apart, the image tower finds them
    all.
    """
    rng = np.random.default_rng([options.seed, 1])
    parameters = [parameter for name, parameter in towers.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW(parameters, lr=options.text_learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(1, options.text_steps + 1):
        rows = rng.integers(len(truth), size=options.text_batch)
        drawn = [draw_names(rng, truth[row], options.named) for row in rows]
        wordings = [
            fill(options.templates[rng.integers(len(options.templates))], [names[k] for k in rng.permutation(shown)])
            for shown in drawn + drawn
        ]
        first, second = towers.encode_text(tokens(wordings), normalize=True).chunk(2)
        loss = info_nce(first, second[:, None], towers.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.text_steps:
            print(f"texts alone, step {step}/{options.text_steps}: loss {loss.item():.3f}", flush=True)


def _fit(
    towers: open_clip.CLIP,
    tokens: Tokens,
    options: PretrainOptions,
    images: Tensor,
    truth: np.ndarray,
    names: Sequence[str],
) -> None:
    rng = np.random.default_rng(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    pixels = Pixels(towers)
    optimizer = torch.optim.AdamW(_groups(towers, options), betas=(0.9, 0.98))  # CLIP's betas
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    start, order = time.monotonic(), np.empty(0, dtype=np.int64)
    for step in range(1, options.steps + 1):
        if len(order) < options.batch:  # every image once before any comes again
            rounds = math.ceil(options.batch / len(images))
            order = np.concatenate([order, *(rng.permutation(len(images)) for _ in range(rounds))])
        chosen, order = order[: options.batch], order[options.batch :]
        captions = [
            fill(options.templates[rng.integers(len(options.templates))], [names[k] for k in named])
            for row in chosen
            for named in (draw_names(rng, truth[row], options.named) for _ in range(options.captions))
        ]
        texts, copies = np.unique(captions, return_inverse=True)  # each distinct caption goes through the tower once
        batch = augment(images[torch.from_numpy(chosen)].float() / 127.5 - 1, generator)
        image_features = towers.encode_image(pixels(batch), normalize=True)
        text_features = towers.encode_text(tokens(texts.tolist()), normalize=True)[torch.from_numpy(copies)]
        text_features = text_features.unflatten(0, (len(chosen), options.captions))
        loss = info_nce(image_features, text_features, towers.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            towers.logit_scale.clamp_(0, math.log(100))  # as CLIP does
        if not math.isfinite(loss.item()):
            raise LanitError(f"the CLIP's loss is no longer finite at step {step}; lower the learning rates")
        if step % 50 == 0 or step == options.steps:
            seconds = time.monotonic() - start
            print(f"step {step}/{options.steps}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)


def _groups(towers: open_clip.CLIP, options: PretrainOptions) -> list[dict[str, Any]]:
    """Return the parameters by learning rate (one for each tower) and weight decay (matrices and kernels alone)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in towers.named_parameters():
        rate = options.image_learning_rate if name.startswith("visual.") else options.text_learning_rate
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: up over a tenth of the steps, level, and down to zero over the last third.

    Level, because the smallest attributes are found late, and at a full rate or never.
    """
    return min(1.0, (step + 1) / max(1, steps // 10), 3 * (steps - step) / steps)


def _check(options: PretrainOptions) -> None:
    if options.split != SPLIT:
        raise LanitError(f"a CLIP learns from split {SPLIT!r} alone, not from {options.split!r}, which may be scored")
    check_templates(options.templates)
    for key in ("steps", "batch", "named", "captions", "text_batch"):
        if getattr(options, key) < 1:
            raise LanitError(f"{key} must be at least 1, not {getattr(options, key)}")


def _save(towers: open_clip.CLIP, config: dict[str, Any], output: Path) -> None:
    # With how the images were seen: open_clip's table may say otherwise of a model by this name.
    seen = dataclasses.asdict(OPEN_CLIP_DEFAULT) | {"quick_gelu": bool(config.get("quick_gelu"))}
    write_tensors(output, {key: value.cpu().numpy() for key, value in towers.state_dict().items()}, {"seen": seen})
    print(f"wrote {output}", flush=True)
