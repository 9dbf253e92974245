"""A small dataset of drawn faces with a tiny CLIP, its embeddings and its labels, made by the stages' own commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from trainings import CLIP, DOMAINS, TEMPLATES, label_by_texts, label_by_truth

from lanit import catalogue
from lanit.cli import main
from lanit.data.batches import ImageStore
from lanit.language.clip import find_model
from lanit.training.labelling import Inputs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Forty drawn faces of 16 pixels, sharded."""
    folder = tmp_path_factory.mktemp("faces")
    splits = {"train": {"images": 32, "seed": 1}, "test": {"images": 8, "seed": 2}}
    options = json.dumps(
        {
            "name": "faces",
            "size": 16,
            "max_damaged": 0.0,
            "shards": {"train": 2, "test": 1},
            "source": {"kind": "faces", "splits": splits},
        }
    )
    shards = folder / "shards"
    assert main(["shard", "plan", "--options", options, "--output", f"{shards}/plan.parquet"]) == 0
    indices = []
    for split, shard in (("train", 0), ("train", 1), ("test", 0)):
        indices.append(f"{shards}/{split}-{shard}.parquet")
        assert (
            main(
                [
                    "shard",
                    "write",
                    "--plan",
                    f"{shards}/plan.parquet",
                    "--options",
                    options,
                    "--split",
                    split,
                    "--shard",
                    str(shard),
                    "--output",
                    f"{shards}/{split}-{shard}.tar",
                    "--index",
                    indices[-1],
                ]
            )
            == 0
        )
    assert (
        main(
            [
                "shard",
                "index",
                "--plan",
                f"{shards}/plan.parquet",
                "--indices",
                *indices,
                "--manifest",
                f"{folder}/manifest.parquet",
                "--quarantine",
                f"{folder}/quarantine.csv",
                "--card",
                f"{folder}/dataset.json",
            ]
        )
        == 0
    )
    return folder / "manifest.parquet"


@pytest.fixture(scope="session")
def language(manifest):
    """Options, labels folder and embeddings of a CLIP with random weights: what LANIT trains on."""
    folder = manifest.parent
    config, weights = folder / "clip-trainer.json", folder / "clip-trainer.safetensors"
    config.write_text(json.dumps(CLIP))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        towers = open_clip.create_model(find_model(str(config))).eval()
        # All images look alike to random weights: about their mean they do not.
        images = torch.nn.functional.interpolate(ImageStore(manifest, "train").read(range(32)) / 127.5 - 1, 32)
        with torch.no_grad():
            towers.visual.attnpool.c_proj.bias -= towers.encode_image(images).mean(0)
        save_file(towers.state_dict(), weights)
    clip = {"model": str(config), "pretrained": str(weights)}
    texts = folder / "texts.safetensors"
    embeddings = [folder / f"{name}.safetensors" for name in ("train-0", "train-1", "test-0")]
    options = json.dumps({"clip": clip, "domains": DOMAINS, "templates": TEMPLATES})
    assert main(["embed", "texts", "--options", options, "--output", str(texts)]) == 0
    for path in embeddings:
        shard = folder / "shards" / f"{path.stem}.tar"
        options = json.dumps({"clip": clip})
        assert main(["embed", "images", "--options", options, "--shard", str(shard), "--output", str(path)]) == 0
    label_by_texts(manifest, folder / "labels", texts, embeddings)
    return {
        "options": {"clip": clip, "templates": TEMPLATES, "labeller": {"kind": "adaptive"}},
        "labels": folder / "labels",
        "texts": texts,
        "all_embeddings": embeddings,
        "embeddings": embeddings[:2],
    }


@pytest.fixture(scope="session")
def truth(manifest):
    """Folder of the labels of truth."""
    folder = manifest.parent / "truth"
    label_by_truth(manifest, folder)
    return folder


@pytest.fixture(scope="session")
def inputs(manifest, language, truth):
    """What a training with these options reads."""

    def of(options: dict) -> Inputs:
        return {
            "text": Inputs(manifest, language["labels"], tuple(language["embeddings"])),
            "truth": Inputs(manifest, truth),
            "none": Inputs(manifest),
        }[catalogue.find(options["method"]).supervision]

    return of


@pytest.fixture(scope="session")
def launch(inputs):
    """Start a training as a user does, through the launcher, on some processes; returns the process."""

    def start(options: dict, output: Path, processes: int = 1, **environment: str) -> subprocess.Popen:
        given = inputs(options)
        command = [
            sys.executable,
            "-m",
            "lanit.training.launch",
            "--standalone",
            f"--nproc-per-node={processes}",
            "-m",
            "lanit",
            "train",
            "--options",
            json.dumps(options),
            "--manifest",
            str(given.manifest),
            "--output",
            str(output),
        ]
        command += ["--labels", str(given.labels)] if given.labels else []
        command += ["--embeddings", *map(str, given.embeddings)] if given.embeddings else []
        return subprocess.Popen(
            command,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        )

    return start
