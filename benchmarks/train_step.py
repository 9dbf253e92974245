"""Seconds of one LANIT step, split by part, against the same step with nothing cached.

    python benchmarks/train_step.py demo                       # the demo's networks and CLIP, batch 8
    python benchmarks/train_step.py paper --batch 1 --steps 2  # 256², ViT-B/32, nine templates; a GPU wants --batch 8

Images, labels and CLIP's weights are random: times do not depend on them. Rows are taken in turn, so that a machine that
is not quiet disturbs all alike; a row's time is the median over its steps. Not cached means, as in the authors' code: real images
encoded four times and all prompts once in each step. On a GPU the rows are repeated in bfloat16, and compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import open_clip
import torch
import yaml
from safetensors.torch import save_file

from lanit.config import parse
from lanit.data.draws import Draws
from lanit.language.clip import find_model, load_clip
from lanit.language.embeddings import ClipOptions, TextsOptions, embed_texts
from lanit.language.prompts import base_features, text_features
from lanit.methods.lanit import Lanit, LanitOptions
from lanit.methods.protocol import Batch
from lanit.training.averaging import average
from lanit.training.step import _autocast

ROOT = Path(__file__).parents[1]
PARTS = ("translations", "discriminator", "latent-guided", "reference-guided", "optimisers", "averages")


@dataclass(frozen=True)
class Case:
    """One row: how the step is taken."""

    name: str
    progress: float = 0.1  # above the start of prompt learning in the second phase
    cached: bool = True
    precision: str = "fp32"
    compiled: bool = False


@dataclass
class Times:
    """Seconds of each part, a value a step."""

    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    total: list[float] = field(default_factory=list)
    peak: float = 0.0  # GPU memory, GiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["demo", "paper"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps a row, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    cases = [Case("phase 1"), Case("phase 2, prompts learn", progress=0.9), Case("phase 1, nothing cached", cached=False)]
    if device == "cuda":
        cases += [Case(f"{case.name}, bf16", case.progress, precision="bf16") for case in cases[:2]]
        cases.append(Case("phase 1, bf16, compiled", precision="bf16", compiled=True))

    with tempfile.TemporaryDirectory() as folder:
        settings, templates, domains, size, language = prepare(arguments.size, Path(folder), device)
        methods = {compiled: make(settings, size, domains, language, folder, device, compiled)
                   for compiled in {case.compiled for case in cases}}
    batch = make_batch(arguments.batch, size, len(domains), device)
    times = {case: Times() for case in cases}
    for step in range(arguments.steps + 1):
        for case in cases:
            take(case, methods[case.compiled], batch, times[case], (domains, templates), device, warm=step > 0)
    print(describe(arguments, device, size, len(domains), len(templates)))
    print(table(times, cases, arguments.batch))


def prepare(name: str, folder: Path, device: str) -> tuple[dict, list[str], list[str], int, dict]:
    """Settings, templates, domains, image size and language options; CLIP's random weights and its texts in `folder`."""
    file = "config.yaml" if name == "demo" else "workflow/configs/paper.yaml"
    config = yaml.safe_load((ROOT / file).read_text())
    dataset = config["dataset"]["faces" if name == "demo" else "celeba_hq"]
    domains = dataset["domains"][:10] if name == "demo" else dataset["domains"][10]
    if name == "demo":
        model = ROOT / "workflow" / "configs" / "clip-faces.json"
    else:
        model = folder / "vit-b-32.json"
        model.write_text(json.dumps(open_clip.get_model_config("ViT-B-32-quickgelu")))
    weights = folder / "clip.safetensors"
    save_file(open_clip.create_model(find_model(str(model))).state_dict(), weights)
    clip = {"model": str(model), "pretrained": str(weights)}
    embed_texts(TextsOptions(ClipOptions(**clip), domains, dataset["templates"]), folder / "texts.safetensors")
    language = {"clip": clip, "templates": dataset["templates"], "prompts": "learned"}
    return config["train"]["lanit"]["settings"], dataset["templates"], domains, dataset["size"], language


def make(settings: dict, size: int, domains: list[str], language: dict, folder: str, device: str, compiled: bool) -> Lanit:
    torch.manual_seed(0)
    method = Lanit(parse(LanitOptions, settings), size, domains, language, Path(folder), device)
    if compiled:
        method.compile()
    return method


def make_batch(count: int, size: int, domains: int, device: str) -> dict:
    """What all steps see: images, and labels of which three in ten are active."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, count, 3, size, size, generator=generator) * 2 - 1
    labels = (torch.rand(2, count, domains, generator=generator) < 0.3).float()
    labels[..., 0] = torch.maximum(labels[..., 0], (labels.sum(-1) == 0).float())
    images = [x.to(device).contiguous(memory_format=torch.channels_last) for x in images]
    return {"images": images, "labels": list(labels.to(device)), "count": count}


def take(case: Case, method: Lanit, batch: dict, times: Times, words: tuple, device: str, warm: bool) -> None:
    """Take one step as a training does, with a clock about each part."""
    count, d_y = batch["count"], batch["labels"][1]
    draws = Draws(0, len(times.total), 0, count, count, device)
    part = Batch(*batch["images"], *batch["labels"], d_y.sum(), 1.0, draws, 4 * len(times.total), case.progress)
    seconds: dict[str, float] = defaultdict(float)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(device)
    if not case.cached:
        recompute(method, batch, words)
        seconds["not cached"] = clock.lap()
    names = iter(("discriminator", "discriminator", "latent-guided", "reference-guided"))
    updates, first = method.updates([part]), True
    while True:
        with _autocast(device, case.precision):
            update = next(updates, None)
        if update is None:
            break
        if first:
            seconds["translations"] += clock.lap()
        name, first = next(names), False
        parameters = [p for network in update.networks for p in method.networks[network].parameters()]
        for tensor in (*parameters, *update.leaves):
            tensor.grad = None
        with _autocast(device, case.precision):
            total, _ = update.loss(0)
        total.backward(inputs=[*parameters, *update.leaves])
        update.finish()
        seconds[name] += clock.lap()
        for network in update.networks:
            method.optimisers()[network].step()
        seconds["optimisers"] += clock.lap()
    average(method.averaged, method.networks, method.averaging(case.progress))
    seconds["averages"] = clock.lap()
    if warm:
        for name, value in seconds.items():
            times.parts[name].append(value)
        times.total.append(sum(seconds.values()))
        times.peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


@torch.no_grad()
def recompute(method: Lanit, batch: dict, words: tuple) -> None:
    """What the caches save."""
    clip = method.guide.clip
    for _ in range(2):
        for images in batch["images"]:
            clip.encode_image(images)
    text_features(clip, *words)
    base_features(clip, words[1])


class Clock:
    """Laps, each after the device has done its work."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.lap()

    def lap(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        before, self.last = getattr(self, "last", 0.0), time.perf_counter()
        return self.last - before


def describe(arguments: argparse.Namespace, device: str, size: int, domains: int, templates: int) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {arguments.threads} threads"
    return (
        f"{arguments.size}: {size} pixels, N = {domains}, {templates} templates, batch {arguments.batch}; {where}; "
        f"torch {torch.__version__}; median of {arguments.steps} steps\n"
    )


def table(times: dict[Case, Times], cases: list[Case], batch: int) -> str:
    """Markdown: a row a case, seconds a step, in all and by part."""
    names = [name for name in (*PARTS, "not cached") if any(name in times[case].parts for case in cases)]
    first = statistics.median(times[cases[0]].total)
    rows = ["| step | seconds | ratio | images/s | " + " | ".join(names) + " | peak GiB |", "|---|" + "---:|" * (len(names) + 4)]
    for case in cases:
        seconds = statistics.median(times[case].total)
        parts = [f"{statistics.median(times[case].parts[name]):.4f}" if name in times[case].parts else "–" for name in names]
        peak = f"{times[case].peak:.1f}" if times[case].peak else "–"
        rows.append(f"| {case.name} | {seconds:.4f} | {seconds / first:.2f} | {batch / seconds:.1f} | {' | '.join(parts)} | {peak} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
