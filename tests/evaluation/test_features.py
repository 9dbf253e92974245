"""Features: the judge's are its penultimate layer, Inception's are those that clean-fid itself computes."""

import hashlib
import io
import socket

import numpy as np
import pytest
import torch
from torch import nn

from lanit.config import LanitError, parse
from lanit.evaluation import inception as checks
from lanit.evaluation.features import FeatureOptions, load_extractor
from lanit.evaluation.inception import FILE, SHA256
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.networks.judge import Judge


class SmallInception(nn.Module):
    """What clean-fid calls of Inception: `layers` takes images at 299 pixels in [-1, 1] and gives 2048 features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(108, 2048))


@pytest.fixture
def inception(tmp_path, monkeypatch):
    """A small network in the published one's place: its digest is taken for the published one."""
    torch.manual_seed(0)
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(SmallInception()).save(path)
    monkeypatch.setattr("lanit.evaluation.inception.SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_inception_features_are_those_of_clean_fid(inception, images, tmp_path):
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    expected = get_folder_features(
        str(tmp_path / "images"),
        model=InceptionV3W(str(tmp_path), download=False),
        num_workers=0,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    extractor = load_extractor(FeatureOptions("inception", inception))
    features = extractor.features(images)
    assert features.dtype == torch.float32 and np.ptp(expected) > 0.1
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert extractor.logits(features) is None and extractor.classes is None


def test_inception_may_be_given_by_its_folder_or_under_another_name(inception, images, tmp_path):
    renamed = tmp_path / "weights.pt"
    renamed.write_bytes(inception.read_bytes())
    extractors = [load_extractor(FeatureOptions("inception", path)) for path in (inception, inception.parent, renamed)]
    assert len({extractor.name for extractor in extractors}) == 1 and extractors[0].name.startswith("inception-")
    for extractor in extractors[1:]:
        torch.testing.assert_close(extractor.features(images), extractors[0].features(images))


def test_the_published_digest():
    """Of the one file that clean-fid's URL gives."""
    from cleanfid.downloads_helper import inception_url

    assert inception_url.endswith(f"/{FILE}") and len(SHA256) == 64 and SHA256.startswith("f58cb9b6ec323ed6")


def test_missing_inception_weights_say_which_file_goes_where(tmp_path):
    with pytest.raises(LanitError, match="no Inception weights at .*inception-2015-12-05.pt; put the file from https"):
        load_extractor(FeatureOptions("inception", tmp_path))
    with pytest.raises(LanitError, match="no Inception weights at .*weights.pt; put the file from https"):
        load_extractor(FeatureOptions("inception", tmp_path / "weights.pt"))


def test_a_file_with_other_code_is_not_run(inception, tmp_path):
    """Its TorchScript would write a file where it is loaded."""
    ran = tmp_path / "ran"
    path = tmp_path / "evil" / FILE
    path.parent.mkdir()
    path.write_bytes(inception.read_bytes() + b"one byte more")
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: loaded.append(ran.touch()))
        with pytest.raises(
            LanitError, match=r"is not the published Inception .its SHA-256 is [0-9a-f]{16}…, not .* cut off"
        ):
            load_extractor(FeatureOptions("inception", path))
    assert not loaded and not ran.exists()


def test_the_bytes_that_were_checked_are_those_that_are_loaded(inception, images, monkeypatch):
    """Also where another file takes the place between the two."""
    expected = load_extractor(FeatureOptions("inception", inception)).features(images)
    check = checks._check
    monkeypatch.setattr(checks, "_check", lambda data, path: (check(data, path), path.write_bytes(b"evil")))
    extractor = load_extractor(FeatureOptions("inception", inception))
    assert inception.read_bytes() == b"evil"
    torch.testing.assert_close(extractor.features(images), expected)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"half a download", "15 bytes of another file"), (b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1\n",
     "a Git LFS pointer")],
)  # fmt: skip
def test_what_a_wrong_inception_file_is(tmp_path, content, what):
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(
        LanitError, match=f"is not the published Inception .*{what}.*: put the file from .* there instead"
    ):
        load_extractor(FeatureOptions("inception", path))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lanit" / FILE


def test_without_a_path_it_is_fetched_once_into_the_user_s_own_cache(inception, cache, images, monkeypatch):
    data, fetched = inception.read_bytes(), []
    inception.unlink()
    monkeypatch.setattr("urllib.request.urlopen", lambda url, **_: fetched.append(url) or io.BytesIO(data))
    first, second = (load_extractor(FeatureOptions("inception")).features(images) for _ in range(2))
    assert len(fetched) == 1 and torch.equal(first, second)
    assert cache.read_bytes() == data and [path.name for path in cache.parent.iterdir()] == [FILE]


def test_what_is_fetched_is_checked_before_it_is_kept(cache, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"<html>Sign in to this network</html>"))
    with pytest.raises(LanitError, match="is not the published Inception .* it is a web page"):
        load_extractor(FeatureOptions("inception"))
    assert not list(cache.parent.iterdir())


def test_without_a_network_one_sentence_says_what_goes_where(cache, monkeypatch):
    def no_network(*_args, **_kwargs):
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(LanitError, match=f"cannot download .*no network.*; put https.* at {cache}, or give its path"):
        load_extractor(FeatureOptions("inception"))
    assert not cache.exists()


def test_a_cache_folder_that_is_no_whole_path_is_no_folder_here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checks._cache() == tmp_path / ".cache" / "lanit"


def test_a_judge_gives_features_and_logits(images, tmp_path):
    torch.manual_seed(0)
    judge = Judge(["hat", "beard"], False, width=8).eval()
    save_judge(judge, tmp_path / "judge.safetensors", JudgeOptions(), {})
    extractor = load_extractor(parse(FeatureOptions, {"kind": "judge", "weights": str(tmp_path / "judge.safetensors")}))
    features = extractor.features(images)
    assert features.shape == (5, 64) and extractor.classes == ["hat", "beard"] and extractor.exclusive is False
    torch.testing.assert_close(extractor.logits(features), judge(images))


def test_the_name_tells_extractors_apart(tmp_path):
    names = []
    for seed in range(2):
        torch.manual_seed(seed)
        save_judge(Judge(["hat"], False, width=4), tmp_path / f"{seed}.safetensors", JudgeOptions(), {})
        names.append(load_extractor(FeatureOptions("judge", tmp_path / f"{seed}.safetensors")).name)
    assert names[0] != names[1] and all(name.startswith("judge-") for name in names)


def test_a_judge_needs_its_path_and_clip_is_no_extractor():
    with pytest.raises(LanitError, match="features.weights is missing"):
        load_extractor(FeatureOptions("judge"))
    with pytest.raises(LanitError, match="must be one of judge, inception, not 'clip'"):
        parse(FeatureOptions, {"kind": "clip"}, "features")
