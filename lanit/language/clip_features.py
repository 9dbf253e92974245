"""CLIP features on disk: of all candidate domains' prompts, and of the images of a shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lanit.config import LanitError
from lanit.files import write_tensors
from lanit.language.clip import ClipOptions, load_clip
from lanit.language.prompts import base_features, check_prompts, text_features
from lanit.language.pseudo_labels import Texts, write_texts


@dataclass(frozen=True)
class TextsOptions:
    """Which prompts are embedded, and with which CLIP."""

    clip: ClipOptions
    domains: list[str]  # every candidate of every N: labels choose among them
    templates: list[str]


@dataclass(frozen=True)
class ImagesOptions:
    """With which CLIP images are embedded."""

    clip: ClipOptions
    batch: int = 256


def embed_texts(options: TextsOptions, output: Path) -> None:
    """Write `domains` (N, k) and `base` (k,), float32 and L2-normalised; metadata: their names, and CLIP's digest."""
    check_prompts(options.domains, options.templates)  # before the time that loading takes
    clip = load_clip(options.clip)
    with torch.inference_mode():
        domains = text_features(clip, options.domains, options.templates)
        base = base_features(clip, options.templates)
    write_texts(Texts(tuple(options.domains), domains.numpy(), base.numpy(), clip.digest), output)


def embed_images(options: ImagesOptions, shard: Path, output: Path) -> None:
    """Write `embeddings` (n, k), float32 and L2-normalised, of a shard's images; metadata: keys, CLIP's digest."""
    from lanit.data.tars import stream

    if options.batch < 1:
        raise LanitError(f"batch must be at least 1, not {options.batch}")
    clip = load_clip(options.clip, "cuda" if torch.cuda.is_available() else "cpu")
    keys, embeddings = [], [np.empty((0, clip.width), np.float32)]
    with torch.inference_mode():
        for names, images in _batches(stream(shard), options.batch):
            pixels = torch.from_numpy(images).to(clip.pixels.mean.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            embeddings.append(clip.encode_image(pixels).cpu().numpy())
            keys += names
    write_tensors(output, {"embeddings": np.concatenate(embeddings)}, {"keys": keys, "clip": clip.digest})


def _batches(samples: Iterator[tuple[str, np.ndarray]], size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    keys: list[str] = []
    images: list[np.ndarray] = []
    for key, image in samples:
        keys.append(key)
        images.append(image)
        if len(keys) == size:
            yield keys, np.stack(images)
            keys, images = [], []
    if keys:
        yield keys, np.stack(images)
