"""Weights in a file see images as their tag's do: by its name, by what lies beside them, by keys, or by a question."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from lanit.config import LanitError, parse
from lanit.language.clip import ClipOptions, Pixels, load_clip
from lanit.language.clip_files import SHIPPED, find_clip_files, find_model
from lanit.language.clip_options import HUB_CONFIG, list_files
from lanit.language.clip_weights import Checkpoint, is_torchscript
from lanit.language.guide import carry_clip, find_clip

TEXTS = ["a cat", "two dogs in the snow"]
VIEW = ("mean", "std", "interpolation", "quick_gelu")
INCEPTION = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tags_of(name: str) -> dict[str, dict]:
    return {
        tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)
    }  # fmt: skip


def view_of_tag(name: str, tag: str) -> tuple:
    """Mean, deviation, interpolation and activation that open_clip itself gives a tag of a model."""
    told, config = tags_of(name)[tag], SHIPPED[name]
    quick = bool(told.get("quick_gelu")) or bool(config.get("quick_gelu"))
    return tuple(told["mean"]), tuple(told["std"]), told["interpolation"], quick


def view(options: ClipOptions) -> tuple:
    files = find_clip_files(options)
    seen = files.preprocessing
    return tuple(seen.mean), tuple(seen.std), seen.interpolation, bool(files.config.get("quick_gelu"))


MODELS = [name for name in SHIPPED if tags_of(name)]
ODD = [name for name in MODELS if any(tag["mean"] != open_clip.OPENAI_DATASET_MEAN for tag in tags_of(name).values())]
UNEQUAL = [name for name in MODELS if len({view_of_tag(name, tag) for tag in tags_of(name)}) > 1]


@pytest.fixture
def file(tmp_path) -> str:
    """A file of weights that tells nothing of itself."""
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


@pytest.fixture(scope="module")
def weights():
    """Weights of a tiny model, without and with QuickGELU the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(**ARCHITECTURE).eval().state_dict()


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / "tiny.json").write_text(json.dumps(ARCHITECTURE))
    return str(tmp_path / "tiny.json")


def texts_of(weights: dict, **architecture) -> torch.Tensor:
    """What open_clip alone makes of texts, with the activation and weights given."""
    towers = open_clip.CLIP(**ARCHITECTURE | architecture).eval()
    towers.load_state_dict(weights)
    return towers.encode_text(open_clip.SimpleTokenizer(context_length=16)(TEXTS), normalize=True)


def test_the_models_that_are_not_seen_as_openai_s_are_many():
    assert len(ODD) >= 46 and {"ViT-L-14", "ViT-B-16-SigLIP", "MobileCLIP-S1", "PE-Core-B-16"} <= set(ODD)
    assert set(UNEQUAL) == {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-bigG-14"}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_seen_as_the_model_s_tags_are_or_asked_about(name, file):
    if name in UNEQUAL:
        with pytest.raises(LanitError, match=f"published weights of {name} differ in .* give clip.tag the one"):
            view(ClipOptions(name, file))
    else:
        assert view(ClipOptions(name, file)) == view_of_tag(name, next(iter(tags_of(name))))
    for tag in tags_of(name):
        assert view(ClipOptions(name, file, tag=tag)) == view_of_tag(name, tag)


@pytest.mark.parametrize("name", [name for name in MODELS if name in ODD or name in UNEQUAL])
def test_its_pixels_are_what_open_clip_makes_of_the_tag_s(name, file):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(60, 200, (6, 6, 3), dtype=np.uint8)).resize((48, 48), Image.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    towers = SimpleNamespace(visual=SimpleNamespace(image_size=32), logit_scale=torch.zeros(()))
    for tag, told in tags_of(name).items():
        keys = ("mean", "std", "interpolation", "resize_mode")
        expected = image_transform_v2(PreprocessCfg(size=32, **{key: told[key] for key in keys}), is_train=False)(image)
        seen = find_clip_files(ClipOptions(name, file, tag=tag)).preprocessing
        # Pillow rounds to whole values after resizing: half a level, in units of the deviation.
        atol = 1.1 / 255 / min(told["std"])
        torch.testing.assert_close(Pixels(towers, seen)(pixels)[0], expected, atol=atol, rtol=0)


def test_what_the_tags_agree_in_is_not_asked(file):
    with pytest.raises(LanitError) as error:
        view(ClipOptions("ViT-B-32", file))
    assert "differ in quick_gelu, and" in str(error.value) and str(error.value).endswith("or give clip.quick_gelu")
    seen = view(ClipOptions("ViT-B-32", file, quick_gelu=False))
    assert seen == view_of_tag("ViT-B-32", "laion2b_s34b_b79k")
    assert view(ClipOptions("ViT-B-32-quickgelu", file)) == view_of_tag("ViT-B-32", "openai")
    with pytest.raises(LanitError, match="differ in mean, std, quick_gelu"):
        view(ClipOptions("ViT-L-14", file))
    with pytest.raises(LanitError, match="differ in mean, std, and"):
        view(ClipOptions("ViT-L-14", file, quick_gelu=False))


def test_keys_go_before_all_else(file):
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "quick_gelu": False}
    expected = tuple(given.values())
    assert view(ClipOptions("ViT-L-14", file, **given)) == expected
    assert view(ClipOptions("ViT-L-14-quickgelu", file, tag="openai", **given)) == expected
    assert (
        view(ClipOptions("ViT-L-14", file, tag="openai", mean=given["mean"]))[1:]
        == view_of_tag("ViT-L-14", "openai")[1:]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tag": "opanai"}, "clip.tag 'opanai' is no tag of ViT-B-32; did you mean 'openai'"),
        ({"tag": "openai", "pretrained": "openai"}, "clip.pretrained is the tag 'openai': drop one"),
        ({"mean": [123.7, 116.3, 103.5]}, "clip.mean must hold three values from 0 to 1, .* divide by 255"),
        ({"std": [0, 0, 0]}, "clip.std must hold three values from 0.001 to 1"),
        ({"mean": [0.5]}, "clip.mean must hold 3 values, not 1"),
        ({"interpolation": "lanczos"}, "clip.interpolation must be one of bicubic, bilinear"),
        ({"pretrained": None}, "clip.pretrained is missing: give an open_clip tag of ViT-B-32"),
    ],
)
def test_options_that_cannot_be(file, options, message):
    with pytest.raises(LanitError, match=message):
        find_clip_files(parse(ClipOptions, {"model": "ViT-B-32", "pretrained": file} | options, "clip"))


def test_a_tag_is_of_no_use_to_an_architecture_of_one_s_own(config, file):
    with pytest.raises(LanitError, match="clip.tag is of no use to .*tiny.json"):
        find_clip_files(ClipOptions(config, file, tag="openai"))


def test_an_architecture_of_one_s_own_is_seen_as_open_clip_trains_it(config, file, tmp_path):
    default = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "bicubic")
    assert view(ClipOptions(config, file)) == (*default, False)
    (tmp_path / "quick.json").write_text(json.dumps(ARCHITECTURE | {"quick_gelu": True}))
    assert view(ClipOptions(str(tmp_path / "quick.json"), file)) == (*default, True)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "copied"])
def test_a_copy_of_open_clip_s_configuration_is_its_model(name, file, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(SHIPPED["ViT-B-16-SigLIP"]))
    assert view(ClipOptions(str(path), file)) == view_of_tag("ViT-B-16-SigLIP", "webli")
    path.write_text(json.dumps(ARCHITECTURE))  # by its name alone it is not
    assert view(ClipOptions(str(path), file))[0] == open_clip.OPENAI_DATASET_MEAN


def hub_folder(folder: Path, weights: dict, preprocess: dict | None = INCEPTION, **architecture) -> Path:
    folder.mkdir(parents=True)
    told = {"model_cfg": ARCHITECTURE | architecture} | ({} if preprocess is None else {"preprocess_cfg": preprocess})
    (folder / HUB_CONFIG).write_text(json.dumps(told))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def hub_cache(root: Path, weights: dict, repository: str = "org/tiny", **options) -> Path:
    """A repository as the Hub's client lays it out: blobs, snapshots of links to them, and a reference."""
    cache = root / f"models--{repository.replace('/', '--')}"
    snapshot = hub_folder(cache / "snapshots" / "0123abcd", weights, **options)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    for i, file in enumerate(list(snapshot.iterdir())):
        file.rename(cache / "blobs" / str(i))
        file.symlink_to(f"../../blobs/{i}")
    return cache


@pytest.mark.parametrize("layout", ["folder", "configuration", "both", "cache", "snapshot", "weights"])
def test_a_folder_of_the_hub_in_each_way_that_it_may_be_named(layout, weights, config, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights, quick_gelu=True)
    cache = hub_cache(tmp_path / "cache", weights, quick_gelu=True)
    (cache / "snapshots" / "an-older-one").mkdir()
    options = {
        "folder": ClipOptions(str(folder)),
        "configuration": ClipOptions(str(folder / HUB_CONFIG)),
        "both": ClipOptions(str(folder), str(folder / "open_clip_model.safetensors")),
        "cache": ClipOptions(str(cache)),
        "snapshot": ClipOptions(str(cache / "snapshots" / "0123abcd")),
        "weights": ClipOptions(config, str(folder)),  # the architecture by one's own file, the rest by what lies beside
    }[layout]
    clip = load_clip(options)
    torch.testing.assert_close(clip.encode_text(TEXTS), texts_of(weights, quick_gelu=True))
    assert not torch.allclose(clip.encode_text(TEXTS), texts_of(weights))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(clip.pixels(images), images)  # mean and deviation 0.5
    assert clip.pixels.interpolation == "bilinear"


def test_given_weights_configuration_trains_no_other(weights, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights)
    with pytest.raises(LanitError, match="is the configuration of given weights; give clip.model its model_cfg"):
        find_model(str(folder))


def test_the_way_of_resizing_is_part_of_it(weights, config, tmp_path):
    save_file(weights, tmp_path / "w.safetensors")
    options = ClipOptions(config, str(tmp_path / "w.safetensors"), resize="corners")
    clip, plain = load_clip(options), load_clip(replace(options, resize="antialias"))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    expected = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", align_corners=True)
    torch.testing.assert_close(clip.pixels(images), (expected - clip.pixels.mean) / clip.pixels.std)
    assert not torch.allclose(clip.pixels(images), plain.pixels(images)) and clip.digest != plain.digest
    carry_clip(asdict(options), tmp_path / "run")
    carried = load_clip(parse(ClipOptions, find_clip(tmp_path / "run", asdict(options))))
    assert carried.digest == clip.digest and torch.equal(carried.pixels(images), clip.pixels(images))


def test_a_cache_filled_by_a_tag_tells_it_by_its_name(weights, tmp_path, monkeypatch):
    """open_clip fetches the weights alone: no configuration lies beside them."""
    cache = hub_cache(tmp_path, weights, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K")
    next((cache / "snapshots").glob(f"*/{HUB_CONFIG}")).unlink()
    expected = view_of_tag("ViT-L-14", "laion2b_s32b_b82k")
    assert view(ClipOptions("ViT-L-14", str(cache))) == expected and expected[0] == (0.5, 0.5, 0.5)
    with pytest.raises(
        LanitError, match="holds no open_clip_config.json; put it there, or give clip.model the open_cl"
    ):
        find_clip_files(ClipOptions(str(cache)))


def test_several_snapshots_and_none_named(weights, tmp_path):
    cache = hub_cache(tmp_path, weights)
    (cache / "snapshots" / "another").mkdir()
    (cache / "refs" / "main").unlink()
    with pytest.raises(LanitError, match="holds 2 snapshots, none of them named in refs/main; give one's path"):
        find_clip_files(ClipOptions(str(cache)))


def test_a_hub_s_folder_without_weights_and_one_of_too_many(weights, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights)
    (folder / "open_clip_model.safetensors").rename(folder / "a.safetensors")
    assert find_clip_files(ClipOptions(str(folder))).weights.path.name == "a.safetensors"
    (folder / "b.pt").write_bytes(b"x")
    with pytest.raises(LanitError, match="no CLIP weights in .*2 files that could be .a.safetensors, b.pt"):
        find_clip_files(ClipOptions(str(folder)))
    for name in ("a.safetensors", "b.pt"):
        (folder / name).unlink()
    with pytest.raises(LanitError, match="no CLIP weights in .*put open_clip_model.safetensors there"):
        find_clip_files(ClipOptions(str(folder)))


def test_a_configuration_beside_the_weights_that_is_of_another_model(weights, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights)
    with pytest.raises(
        LanitError, match=r"is of another model than ViT-B-32 \(16 dimensions at 32 pixels, not 512 at 224"
    ):
        find_clip_files(ClipOptions("ViT-B-32", str(folder)))
    (tmp_path / "quick.json").write_text(json.dumps(ARCHITECTURE | {"quick_gelu": True}))
    options = ClipOptions(str(tmp_path / "quick.json"), str(folder))
    with pytest.raises(LanitError, match="quick.json has QuickGELU, and the model in .* has not; give clip.quick_gelu"):
        find_clip_files(options)
    assert view(replace(options, quick_gelu=False))[3] is False


def test_a_hub_configuration_without_preprocessing_is_no_riddle(weights, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights, preprocess=None)
    assert view(ClipOptions(str(folder)))[0] == open_clip.OPENAI_DATASET_MEAN  # as open_clip itself takes it
    broken = {"mean": 0.5, "std": [0.5] * 3}
    with pytest.raises(LanitError, match="holds the mean 0.5, where three numbers belong; give them as clip.mean"):
        find_clip_files(ClipOptions(str(hub_folder(tmp_path / "broken", weights, preprocess=broken))))


def openai_file(path: Path, weights: dict, form: str) -> str:
    """Weights as OpenAI published them: in half precision, with three numbers more, and in TorchScript code and all."""
    numbers = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    halves = {key: value.half() for key, value in weights.items()} | {k: torch.tensor(v) for k, v in numbers.items()}
    if form == "safetensors":
        save_file(halves, path)
    elif form == "pytorch":
        torch.save(halves, path)
    else:
        towers = open_clip.CLIP(**ARCHITECTURE).eval()
        towers.load_state_dict(weights)
        towers.half().visual.float()
        around = torch.nn.Module()
        for name, child in towers.named_children():
            setattr(around, name, child)
        for name, parameter in towers.named_parameters(recurse=False):
            setattr(around, name, parameter)
        for name, value in numbers.items():
            around.register_buffer(name, torch.tensor(value))
        around.forward = lambda images: towers.visual(images)
        torch.jit.trace(around, torch.zeros(1, 3, 32, 32), check_trace=False).save(path)
    return str(path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("form", ["safetensors", "pytorch", "torchscript"])
def test_openai_s_own_weights_have_quick_gelu_under_any_name(form, weights, config, tmp_path):
    path = openai_file(tmp_path / f"file.{'safetensors' if form == 'safetensors' else 'pt'}", weights, form)
    clip = load_clip(ClipOptions(config, path))
    torch.testing.assert_close(clip.encode_text(TEXTS), texts_of(weights, quick_gelu=True), atol=2e-3, rtol=0)
    assert (clip.encode_text(TEXTS) - texts_of(weights)).abs().max() > 4e-3
    assert load_clip(ClipOptions(config, path, quick_gelu=False)).towers.transformer.resblocks[
        0
    ].mlp.gelu.__class__ is (torch.nn.GELU)
    assert view(ClipOptions("ViT-L-14", path)) == view_of_tag("ViT-L-14", "openai")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_file_is_read_without_its_code(weights, tmp_path):
    path = Path(openai_file(tmp_path / "whole.pt", weights, "torchscript"))
    expected = torch.jit.load(path).state_dict()
    spoilt = tmp_path / "spoilt.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(spoilt, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"this would not compile" if "/code/" in name else old.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(spoilt)
    state = Checkpoint(spoilt).state
    assert set(state) == set(expected) - {"input_resolution", "context_length", "vocab_size"}
    assert all(torch.equal(state[name], expected[name]) for name in state)


class Scripted(torch.nn.Module):
    """Attributes of every kind that a scripted module may have beside its tensors."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3).half()
        self.blocks = torch.nn.ModuleList([torch.nn.BatchNorm1d(2)])
        self.words = torch.jit.Attribute(["a"], list[str])
        self.numbers = torch.jit.Attribute({"b": 1}, dict[str, int])
        self.device, self.share = torch.jit.Attribute(torch.device("cpu"), torch.device), 0.5
        self.register_buffer("turned", torch.arange(6).view(2, 3).T)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tensors_of_a_scripted_module_are_found_among_its_other_attributes(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "scripted.pt")
    expected, state = torch.jit.load(tmp_path / "scripted.pt").state_dict(), Checkpoint(tmp_path / "scripted.pt").state
    assert set(state) == set(expected) and all(torch.equal(state[name], expected[name]) for name in expected)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_in_it_that_asks_for_more_than_tensors_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
    assert is_torchscript(Path("evil.pt"))
    with pytest.raises(LanitError, match=r"evil.pt cannot be read as CLIP weights .it asks for \w+.system"):
        load_clip(ClipOptions(config, "evil.pt"))
    assert not Path("ran").exists()


def test_a_file_without_a_suffix_is_read_by_what_it_holds(weights, config, tmp_path):
    """Links of the Hub's cache lead to files that are named by digests alone."""
    save_file(weights, tmp_path / "0a1b2c")
    torch.save(weights, tmp_path / "3d4e5f")
    for name in ("0a1b2c", "3d4e5f"):
        clip = load_clip(ClipOptions(config, str(tmp_path / name)))
        torch.testing.assert_close(clip.encode_text(TEXTS), texts_of(weights))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer.*`git lfs pull`"),
        (b"", "it is empty; copy or fetch it again"),
        (b"<!DOCTYPE html><html>", "a web page, not the file itself"),
    ],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_what_is_often_found_in_the_place_of_weights(config, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LanitError, match=message):
        load_clip(ClipOptions(config, str(tmp_path / name)))


def test_weights_of_another_architecture_and_of_another_library(weights, config, tmp_path):
    (tmp_path / "wider.json").write_text(json.dumps(ARCHITECTURE | {"embed_dim": 24}))
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(LanitError, match=r"does not fit .*wider.json: .* has shape .* give the model or configuration"):
        load_clip(ClipOptions(str(tmp_path / "wider.json"), str(tmp_path / "weights.safetensors")))
    save_file({"vision_model.x": torch.zeros(2), "text_model.x": torch.zeros(2)}, tmp_path / "transformers.safetensors")
    with pytest.raises(LanitError, match="its names are those of transformers: fetch open_clip_model.safetensors"):
        load_clip(ClipOptions(config, str(tmp_path / "transformers.safetensors")))


@pytest.mark.parametrize(
    "vision",
    [{"image_size": 32, "layers": 1, "width": 30, "head_width": 16, "colour": True}, {"timm_model_name": "no"}],
)
def test_an_architecture_that_open_clip_cannot_make(file, tmp_path, vision):
    (tmp_path / "odd.json").write_text(json.dumps(ARCHITECTURE | {"vision_cfg": vision}))
    with pytest.raises(LanitError, match="open_clip cannot make the model .*odd.json .*; see its model_configs"):
        load_clip(ClipOptions(str(tmp_path / "odd.json"), file))


def test_a_vocabulary_that_open_clip_s_tokenizer_exceeds(file, tmp_path):
    text = ARCHITECTURE["text_cfg"] | {"vocab_size": 32000}
    (tmp_path / "small.json").write_text(json.dumps(ARCHITECTURE | {"text_cfg": text}))
    with pytest.raises(
        LanitError, match="knows 32000 tokens, and open_clip's tokenizer has 49408; give .*hf_tokenizer_na"
    ):
        load_clip(ClipOptions(str(tmp_path / "small.json"), file))


def test_the_advice_for_a_machine_without_network_works_when_followed(weights, tmp_path, monkeypatch):
    """The tag's file given by its path, and the tag by its name: the very pixels, texts and digest of the tag."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14", ARCHITECTURE)
    save_file(weights, tmp_path / "fetched.safetensors")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    for tag in ("openai", "laion2b_s32b_b82k", "dfn2b"):
        told = open_clip.get_pretrained_cfg("ViT-L-14", tag) | {"hf_hub": "nobody/nothing/", "url": ""}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-L-14"], tag, told)
        monkeypatch.setattr("lanit.language.clip_files.download_pretrained", refuse)
        with pytest.raises(LanitError, match=f"give clip.pretrained its path and clip.tag '{tag}'"):
            load_clip(ClipOptions("ViT-L-14", tag))
        followed = load_clip(ClipOptions("ViT-L-14", str(tmp_path / "fetched.safetensors"), tag=tag))
        monkeypatch.setattr(
            "lanit.language.clip_files.download_pretrained", lambda _: str(tmp_path / "fetched.safetensors")
        )
        public = load_clip(ClipOptions("ViT-L-14", tag))
        assert followed.digest == public.digest
        images = torch.rand(2, 3, 48, 48) * 2 - 1
        assert torch.equal(followed.encode_image(images), public.encode_image(images))
        assert torch.equal(followed.encode_text(TEXTS), public.encode_text(TEXTS))


def refuse(*_):
    raise OSError("no network in this test")


def test_the_digest_tells_weights_preprocessing_activation_and_architecture_apart(weights, config, tmp_path):
    save_file(weights, tmp_path / "a.safetensors")
    save_file(weights, tmp_path / "copy.safetensors")
    save_file(weights | {"logit_scale": torch.ones(())}, tmp_path / "b.safetensors")
    plain = ClipOptions(config, str(tmp_path / "a.safetensors"))
    same = replace(plain, pretrained=str(tmp_path / "copy.safetensors"), mean=open_clip.OPENAI_DATASET_MEAN)
    others = [
        replace(plain, pretrained=str(tmp_path / "b.safetensors")),
        replace(plain, mean=(0.5, 0.5, 0.5)),
        replace(plain, interpolation="bilinear"),
        replace(plain, quick_gelu=True),
    ]
    assert find_clip_files(same).digest == find_clip_files(plain).digest
    digests = [find_clip_files(options).digest for options in (plain, *others)]
    assert len(set(digests)) == 5 and all(len(digest) == 12 for digest in digests)


def test_all_files_that_a_clip_is_read_from(weights, config, tmp_path):
    folder = hub_folder(tmp_path / "hub", weights)
    (folder / "tokenizer.json").write_text("{}")
    files = [str(folder / name) for name in (HUB_CONFIG, "open_clip_model.safetensors", "tokenizer.json")]
    assert list_files(str(folder), None) == files
    assert set(list_files("ViT-B-32", str(folder))) == set(files)
    assert list_files("ViT-B-32", "openai") == []
    assert list_files(config, "openai") == [config]
    cache = hub_cache(tmp_path / "cache", weights)
    assert list_files(str(cache), None)[0] == str(cache / "snapshots" / "0123abcd" / HUB_CONFIG)


# A tokenizer and a text tower of the Hub's.


def tokenizer_files(folder: Path) -> None:
    """A tokenizer of seven words, written as the Hub's repositories hold one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "cat", "two", "dogs"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


SIGLIP = ARCHITECTURE | {
    "custom_text": True,
    "init_logit_bias": -10,
    "text_cfg": {
        "context_length": 8, "vocab_size": 7, "width": 16, "heads": 2, "layers": 1, "pool_type": "last",
        "no_causal_mask": True, "hf_tokenizer_name": "nobody/no-such-tokenizer",
    },
}  # fmt: skip


@pytest.fixture
def siglip(tmp_path, monkeypatch) -> Path:
    """A folder as SigLIP's, with all but a tokenizer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = open_clip.CustomTextCLIP(**{k: v for k, v in SIGLIP.items() if k != "custom_text"})
    return hub_folder(tmp_path / "siglip", towers.state_dict(), **SIGLIP)


def test_a_tokenizer_beside_the_weights_is_used_without_network(siglip):
    tokenizer_files(siglip)
    clip = load_clip(ClipOptions(str(siglip)))
    assert clip.tokenize(["two dogs", "a zebra"]).tolist() == [[5, 6, 1, 0, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0, 0]]
    assert clip.encode_text(["a cat", "two dogs"]).shape == (2, 16)
    with pytest.raises(LanitError, match="longer than the 8 tokens"):
        clip.encode_text(["a cat a cat a cat a cat"])


def test_a_tokenizer_that_is_not_here_is_named_with_its_place_and_the_advice_works(siglip):
    with pytest.raises(LanitError, match="nobody/no-such-tokenizer of the Hugging Face Hub, which neither") as error:
        load_clip(ClipOptions(str(siglip)))
    assert "\n" not in str(error.value) and str(error.value).endswith(f"beside the weights, into {siglip}")
    tokenizer_files(siglip)
    load_clip(ClipOptions(str(siglip)))
    (siglip / "tokenizer.json").write_text("{")
    with pytest.raises(LanitError, match=f"which {siglip} does not hold in a form that can be read"):
        load_clip(ClipOptions(str(siglip)))


def test_without_the_package_that_reads_tokenizers_it_is_named(siglip, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LanitError, match="that is not here; pip install transformers$"):
        load_clip(ClipOptions(str(siglip)))


def test_a_run_carries_the_tokenizer_too(siglip, tmp_path):
    tokenizer_files(siglip)
    expected = load_clip(ClipOptions(str(siglip)))
    carry_clip({"model": str(siglip)}, tmp_path / "run")
    siglip.rename(tmp_path / "gone")
    carried = load_clip(parse(ClipOptions, find_clip(tmp_path / "run", {"model": str(siglip)})))
    torch.testing.assert_close(carried.encode_text(["a cat"]), expected.encode_text(["a cat"]))
    assert carried.digest == expected.digest


def test_a_text_tower_of_the_hub_s_is_made_of_the_configuration_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = {
        "hf_model_name": "nobody/no-such-model",
        "hf_tokenizer_name": "nobody/no-such-tokenizer",
        "context_length": 8,
    }
    architecture = ARCHITECTURE | {"text_cfg": text | {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}}
    roberta = {
        "model_type": "roberta", "vocab_size": 7, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 0,
    }  # fmt: skip
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text(json.dumps(roberta))
    local = architecture["text_cfg"] | {"hf_model_name": str(tmp_path / "text"), "hf_model_pretrained": False}
    towers = open_clip.CustomTextCLIP(**architecture | {"text_cfg": local}).eval()
    folder = hub_folder(tmp_path / "hub", towers.state_dict(), **architecture)
    tokenizer_files(folder)
    with pytest.raises(LanitError, match=f"is nobody/no-such-model of the Hugging Face Hub, .* weights, into {folder}"):
        load_clip(ClipOptions(str(folder)))
    (folder / "config.json").write_text('{"architecture": "vit"}')  # timm's, which says nothing of texts
    with pytest.raises(LanitError, match="put its config.json beside the weights"):
        load_clip(ClipOptions(str(folder)))
    (folder / "config.json").write_text(json.dumps(roberta))
    clip = load_clip(ClipOptions(str(folder)))
    expected = torch.nn.functional.normalize(towers.encode_text(clip.tokenize(["a cat"])), dim=-1)
    torch.testing.assert_close(clip.encode_text(["a cat"]), expected)
    carry_clip({"model": str(folder)}, tmp_path / "run")
    folder.rename(tmp_path / "gone")
    carried = load_clip(parse(ClipOptions, find_clip(tmp_path / "run", {"model": str(folder)})))
    torch.testing.assert_close(carried.encode_text(["a cat"]), expected)


def test_the_options_need_no_torch():
    import subprocess

    code = "import sys, lanit.language.clip_options; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_options_given_as_nothing_are_defaults():
    assert parse(ClipOptions, asdict(ClipOptions("m", "p"))) == ClipOptions("m", "p")
