"""A made-up sweep: scores with known numbers, label quality, losses, pictures whose pixels tell row and column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DOMAINS = (
    "hat", "glasses", "red hair", "blue background", "beard", "green skin", "crown", "scarf", "mask", "bow tie",
    "eye patch", "freckles", "earrings", "moustache", "headphones", "big nose",
)  # fmt: skip
CLASSES = DOMAINS[:10]
PROTOCOL = {"name": "reference", "rounds": 9, "k": 5, "seed": 0}


def score(dataset="faces", method="lanit", domains=10, seed=0, mfid=20.0, density=1.0, coverage=0.8, **changes):
    """One `scores.json`."""
    mean = {
        "mfid": mfid, "mkid": mfid / 1000, "density": density, "coverage": coverage, "hit_rate": 0.5,
        "hit_rate_candidates": 0.6, "source_rate_candidates": 0.2, "kept_rate": 0.9,
    }  # fmt: skip
    row = {"fid": mfid, "n_real": 100, "n_fake": 400, "candidate": True}
    values = {
        "dataset": dataset, "method": method, "domains": domains, "seed": seed, "protocol": PROTOCOL,
        "features": {"kind": "judge", "weights": "judge.safetensors"}, "images_seen": 64000, "train_seconds": 90.0,
        "code": "0123456789abcdef", "config": f"{method}{domains}{seed}", "mean": mean,
        "per_class": {name: dict(row) for name in CLASSES} | {"beard": row | {"n_real": 57}},
    }  # fmt: skip
    return values | changes


def image(value: int, size: int = 8) -> np.ndarray:
    """A plain uint8 image (size, size, 3) of one colour that `value` (below 4096) determines."""
    return np.full((size, size, 3), [value // 256 * 16, value // 16 % 16 * 16, value % 16 * 16], np.uint8)


def pictures(sources=3, references=4, domains=DOMAINS[:5], latents=None, size=8):
    """The arrays of a `pictures.npz`: source i is colour i, reference j is 16 + j, their translation 256 + 16 i + j."""
    latents = len(domains) if latents is None else latents
    return {
        "sources": np.stack([image(i, size) for i in range(sources)]),
        "references": np.stack([image(16 + j, size) for j in range(references)]),
        "reference_grid": np.stack(
            [np.stack([image(256 + 16 * i + j, size) for j in range(references)]) for i in range(sources)]
        ),
        "latent_grid": np.stack(
            [np.stack([image(512 + 16 * i + j, size) for j in range(latents)]) for i in range(sources)]
        ),
        "reference_classes": np.array([CLASSES[j % len(CLASSES)] for j in range(references)]),
        "domains": np.array(domains),
    }


def write_run(root: Path, values: dict, arrays: dict | None = None, lines: list[dict] = ()) -> Path:
    """Lay a run out as the earlier stages do; return its folder."""
    variant = values.get("variant", values["method"])
    folder = root / values["dataset"] / f"{variant}-n{values['domains']}" / f"seed{values['seed']}"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(values))
    run = {key: values[key] for key in ("dataset", "method", "seed", "images_seen", "train_seconds", "code", "config")}
    run |= {"variant": variant, "domains": list(DOMAINS[: values["domains"]]), "options": {}, "processes": 1}
    (folder / "run.json").write_text(json.dumps(run))
    if arrays:
        np.savez(folder / "pictures.npz", **arrays)
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_quality(root: Path, dataset: str, kind: str, domains: int, f1: float | None, run: Path | None = None) -> Path:
    """Lay one `quality.json` out as the label stage does, or in a run whose prompts learned; return its path."""
    path = (run / "labels" if run else root / dataset / "labels" / f"{kind}-n{domains}") / "quality.json"
    path.parent.mkdir(parents=True)
    split = {"mean_labels": 2.5, "share_without": 0.04, "share_all": 0.0, "f1_macro": f1, "per_domain": {}}
    values = {
        "labeller": {"kind": kind, "k": 3 if kind == "top_k" else None, "threshold": 0.25 if kind == "fixed" else None},
        "domains": list(DOMAINS[:domains]),
        "splits": {"train": split | {"images": 3200}, "test": split | {"images": 800}},
    }
    path.write_text(json.dumps(values))
    return path


def write_sweep(root: Path, datasets=("faces",), counts=(4, 7, 10, 13, 16), seeds=(0, 1), drawn=None) -> None:
    """Two methods × N × seeds with plausible numbers; `drawn(seed)` gives the images of a run."""
    generator = np.random.default_rng(0)
    for dataset in datasets:
        for method in ("lanit", "tunit"):
            for n in counts:
                for seed in seeds:
                    better = method == "lanit"
                    noise = generator.normal(size=6)
                    mean = {
                        "mfid": 70 * n**-0.4 + 3 * noise[0] if better else 58 + 0.4 * (n - 10) ** 2 / 3 + 3 * noise[0],
                        "mkid": 0.02 + 0.002 * noise[1],
                        "density": (1.2 if better else 0.8) + 0.08 * noise[2],
                        "coverage": float(np.clip((0.8 if better else 0.6) + 0.04 * noise[3], 0, 1)),
                        "hit_rate": (0.62 if better else 0.28) + 0.03 * noise[4],
                        "hit_rate_candidates": (0.74 if better else 0.33) + 0.03 * noise[5],
                        "source_rate_candidates": 0.21,
                        "kept_rate": 0.87,
                    }
                    values = score(dataset, method, n, seed, mean=mean, images_seen=64000, train_seconds=88.0 + n)
                    own = ("cycle", "style", "diversity", "domain") if better else ("reconstruction", "contrastive")
                    names = ("d/adversarial", "g/adversarial", *own)
                    lines = [
                        {"step": s, "images": 16 * s, "seconds": s / 8, "images_per_second": 120.0}
                        | {m: float(np.exp(-s / 900) + 0.3 + 0.05 * generator.normal()) for m in names}
                        for s in range(0, 4000, 20)
                    ]
                    arrays = drawn(generator, n) if drawn else pictures(domains=DOMAINS[:n])
                    write_run(root, values, arrays, lines)
        for n in counts:
            for kind, f1 in (("adaptive", 0.96 - 0.006 * n), ("top_k", 0.72 - 0.01 * n), ("fixed", 0.65 - 0.012 * n)):
                write_quality(root, dataset, kind, n, f1)


VARIANTS = ("lanit", "lanit_learned", "lanit_top1", "lanit_top3", "lanit_fixed", "lanit_no_dl", "lanit_cosine",
            "lanit_no_ds", "lanit_image", "lanit_slack")  # fmt: skip


def write_ablation(root: Path, variants=VARIANTS, counts=(10,), seeds=(0, 1, 2), size=8) -> None:
    """Variants of LANIT × N × seeds, one of them with prompts that learned."""
    generator = np.random.default_rng(0)
    for rank, variant in enumerate(variants):
        for n in counts:
            for seed in seeds:
                noise = generator.normal(size=5)
                mean = {
                    "mfid": 42 + 2 * rank + 20 / n + 1.5 * noise[0],
                    "mkid": 0.02 + 0.001 * rank + 0.002 * noise[1],
                    "density": 1.1 - 0.03 * rank + 0.04 * noise[2],
                    "coverage": float(np.clip(0.9 - 0.03 * rank + 0.02 * noise[3], 0, 1)),
                    "hit_rate": 0.7 - 0.05 * rank + 0.02 * noise[4],
                    "hit_rate_candidates": 0.79 - 0.05 * rank + 0.02 * noise[4],
                    "source_rate_candidates": 0.05,
                    "kept_rate": 0.87 + 0.01 * noise[1],
                }
                values = score("faces", "lanit", n, seed, mean=mean, variant=variant, config=f"{variant}{n}{seed}")
                lines = [
                    {"step": s, "images": 16 * s} | {m: float(np.exp(-s / 900)) for m in ("d/adversarial", "g/cycle")}
                    for s in range(0, 400, 20)
                ]
                run = write_run(root, values, pictures(domains=DOMAINS[:n], size=size), lines)
                if variant == "lanit_learned":
                    write_quality(root, "faces", "adaptive", n, 0.9 + 0.01 * seed, run)
                    (run / "prompts.json").write_text(json.dumps(prompts(DOMAINS[:n])))
    for n in counts:
        for kind, f1 in (("adaptive", 0.9), ("top_k", 0.65), ("fixed", 0.55)):
            write_quality(root, "faces", kind, n, f1)


def prompts(domains) -> dict:
    """What a run whose prompts learned says of them: one template, two vectors."""
    near = [{"token": "photo", "cosine": 0.953}, {"token": "<b>", "cosine": 0.4}, {"token": "ë", "cosine": 0.2}]
    return {
        "templates": [
            {
                "template": "a photo of {}.",
                "vectors": [{"token": token, "moved": 0.125, "nearest": near} for token in ("a", "photo")],
            }
        ],
        "labels": {
            "changed": 0.0123,
            "per_domain": {name: {"before": 0.25, "after": 0.3, "changed": 0.07} for name in domains},
            "without_before": 0.04,
            "without_after": 0.02,
        },
    }
