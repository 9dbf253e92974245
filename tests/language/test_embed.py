"""The commands `lanit embed texts` and `lanit embed images`, and a CLIP for real photos."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lanit.cli import main
from lanit.data.batches import ImageStore
from lanit.data.manifest import read_manifest
from lanit.files import read_tensors
from lanit.language.clip import ClipOptions, load_clip
from lanit.language.prompts import base_features, text_features
from lanit.language.pseudo_labels import adaptive, read_texts
from lanit.language.quality import _scores

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10"


def test_texts_hold_all_domains_and_the_base_prompt(tiny, clip, tmp_path):
    domains, templates = ["hat", "red hair", "sun"], ["a face with {}.", "face: {}"]
    options = {"clip": asdict(tiny), "domains": domains, "templates": templates}
    output = tmp_path / "deep" / "texts.safetensors"
    assert main(["embed", "texts", "--options", json.dumps(options), "--output", str(output)]) == 0
    texts = read_texts(output)
    assert texts.names == tuple(domains) and texts.domains.dtype == texts.base.dtype == np.float32
    np.testing.assert_allclose(texts.domains, text_features(clip, domains, templates), atol=1e-6)
    np.testing.assert_allclose(texts.base, base_features(clip, templates), atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["texts.safetensors"]  # nothing unfinished is left


@pytest.mark.parametrize("batch", [5, 64])
def test_images_are_embedded_in_the_shard_s_order(tiny, clip, faces, tmp_path, batch):
    output = tmp_path / "train-1.safetensors"
    options = json.dumps({"clip": asdict(tiny), "batch": batch})
    shard = faces.parent / "shards" / "train-1.tar"
    assert main(["embed", "images", "--options", options, "--shard", str(shard), "--output", str(output)]) == 0
    arrays, metadata = read_tensors(output, ("embeddings", "keys"), "lanit embed")
    rows = read_manifest(faces, "train")
    wanted = rows.index[rows["shard"] == 1]
    assert metadata["keys"] == rows.loc[wanted, "key"].tolist()
    images = ImageStore(faces, "train").read(wanted.to_numpy()).float() / 127.5 - 1
    np.testing.assert_allclose(arrays["embeddings"], clip.encode_image(images).numpy(), atol=1e-5)
    assert arrays["embeddings"].dtype == np.float32


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("texts", {"domains": ["hat"], "templates": ["a face"]}, "must hold {} once"),
        ("texts", {"domains": ["hat", "hat"], "templates": ["{}"]}, "'hat' is given twice"),
        ("texts", {"domain": ["hat"]}, "unknown key 'domain'; did you mean 'domains'?"),
        ("images", {"batch": 0}, "batch must be at least 1"),
        ("images", {}, "no shard at"),
    ],
)
def test_mistakes_end_with_one_sentence(tiny, tmp_path, capsys, part, options, message):
    where = ["--shard", str(tmp_path / "none.tar")] if part == "images" else []
    options = json.dumps({"clip": asdict(tiny)} | options)
    assert main(["embed", part, "--options", options, *where, "--output", str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_help_needs_no_torch():
    code = (
        "import sys; from lanit.cli import main\n"
        "try: main(['embed', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.skipif(not (PHOTOS / "clip-photos.json").is_file(), reason="no shared photos beside this checkout")
def test_local_weights_label_real_photos():
    clip = load_clip(ClipOptions(str(PHOTOS / "clip-photos.json"), str(PHOTOS / "clip-photos.safetensors")))
    with tarfile.open(PHOTOS / "test.tar.gz") as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        members = sorted(files, key=lambda member: member.name)[::10]
        contents = [io.BytesIO(tar.extractfile(member).read()) for member in members]
    photos = [np.asarray(Image.open(content).convert("RGB")) for content in contents]
    classes = [Path(member.name).parent.name for member in members]
    names = sorted(set(classes))
    true = np.array([[name == of for name in names] for of in classes])
    with torch.inference_mode():
        images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1
        embeddings = torch.cat([clip.encode_image(part) for part in images.split(100)])
        similarities = (embeddings @ text_features(clip, names, ["a photo of a {}."]).T).numpy()
        base = (embeddings @ base_features(clip, ["a photo of a {}."])).numpy()
    assert len(photos) == 500 and len(names) == 10
    assert (similarities.argmax(1) == true.argmax(1)).mean() > 0.75
    labels = adaptive(similarities, base)
    assert np.mean([_scores(labels[:, n], true[:, n])["f1"] for n in range(10)]) > 0.7
