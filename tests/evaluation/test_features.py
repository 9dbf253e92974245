"""Features: the judge's are its penultimate layer, Inception's are those that clean-fid itself computes."""

import socket

import numpy as np
import pytest
import torch
from torch import nn

from lanit.config import LanitError, parse
from lanit.evaluation.features import FeatureOptions, load_extractor
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.networks.judge import Judge


class SmallInception(nn.Module):
    """What clean-fid calls of Inception: `layers` takes images at 299 pixels in [-1, 1] and gives 2048 features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(108, 2048))


@pytest.fixture
def inception(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(SmallInception()).save(path)
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


def test_inception_may_be_given_by_its_folder(inception, images):
    by_folder = load_extractor(FeatureOptions("inception", inception.parent))
    by_file = load_extractor(FeatureOptions("inception", inception))
    torch.testing.assert_close(by_folder.features(images), by_file.features(images))
    assert by_folder.name == by_file.name and by_file.name.startswith("inception-")


def test_missing_inception_weights_say_which_file_goes_where(tmp_path, monkeypatch):
    with pytest.raises(LanitError, match="no Inception weights at .*inception-2015-12-05.pt; put the file from https"):
        load_extractor(FeatureOptions("inception", tmp_path))
    with pytest.raises(LanitError, match="a file called inception-2015-12-05.pt"):
        load_extractor(FeatureOptions("inception", tmp_path / "weights.pt"))

    from lanit.evaluation import features

    def no_network(*_args, **_kwargs):
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(LanitError, match=f"cannot download .* at {tmp_path}/inception-2015-12-05.pt, or give its path"):
        features._download_inception(tmp_path / "inception-2015-12-05.pt", "https://example.org/inception.pt")
    assert not list(tmp_path.iterdir())


def test_a_broken_inception_file_is_an_error(tmp_path):
    path = tmp_path / "inception-2015-12-05.pt"
    path.write_bytes(b"half a download")
    with pytest.raises(LanitError, match="is not clean-fid's TorchScript Inception"):
        load_extractor(FeatureOptions("inception", path))


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
