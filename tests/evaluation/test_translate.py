"""Translating: by the protocol's pairs, with the method's own labels, rounded as a saved picture would be."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import CLASSES, Clustering, Identity, Perfect

from lanit.config import LanitError
from lanit.data.batches import ImageStore
from lanit.data.manifest import read_manifest, read_truth
from lanit.evaluation.features import FeatureOptions, load_extractor
from lanit.evaluation.protocols import Pairs
from lanit.evaluation.translate import Translator, style_labels, target_labels, translate_pairs
from lanit.files import read_tensors, write_tensors
from lanit.language.pseudo_labels import LabellerOptions, Labels, adaptive, write_labels
from lanit.language.truth_labels import truth_labels


def read(run):
    return read_tensors(run / "translations.safetensors", (), "lanit translate")


@pytest.fixture
def labels(tmp_path, manifest):
    """Pseudo labels of two domains, none of them for the first 20 test images, whose nearest domain is the second."""
    keys = list(read_manifest(manifest, "test")["key"])
    rng = np.random.default_rng(0)
    similarities, base = rng.random((len(keys), 2)).astype("float32"), np.full(len(keys), 0.3, "float32")
    similarities[:, 0] += (similarities < 0.3).all(axis=1)
    base[:20], similarities[:20] = 0.5, [0.1, 0.2]
    value = Labels(tuple(keys), ("hat", "beard"), similarities, base, adaptive(similarities, base))
    write_labels(value, tmp_path / "labels", "test")
    return value


class Labelled(Perfect):
    """Paints the mean colour of a reference's labels, and remembers what it was asked."""

    balanced, references = False, 1

    def __init__(self):
        self.asked = []

    def reference_style(self, references, labels):
        self.asked.append((references, labels))
        return labels

    def extend_labels(self, labels):
        return labels

    def latent_style(self, labels, generator):
        return labels

    def translate(self, sources, styles):
        return styles.mean(1)[:, None, None, None].expand(sources.shape)


def test_translations_are_of_the_protocols_pairs(make_run, translate, manifest, judge):
    run = make_run(Perfect())
    assert translate(run) == 0
    arrays, about = read(run)
    assert arrays["features"].shape == (72, 64) and arrays["logits"].shape == (72, 16)
    assert about["classes"] == CLASSES and about["protocol"] == {
        "name": "reference", "pairs": 12, "k": 5, "seed": 0, "split": "test",
    }  # fmt: skip
    extractor = load_extractor(FeatureOptions("judge", judge))
    assert about["features"] == extractor.name and about["judged"] == extractor.classes
    # A perfect translation is its reference, so it has its reference's features.
    expected = extractor.features(ImageStore(manifest, "test").read(arrays["reference"]))
    np.testing.assert_allclose(arrays["features"], expected, atol=1e-5)


def test_every_method_gets_the_same_pairs_and_picture_sources(make_run, translate, labels, tmp_path):
    seen, with_labels = [], ["--labels", tmp_path / "labels"]
    for method, arguments, domains in [(Identity(), [], "abc"), (Labelled(), with_labels, ["hat", "beard"])]:
        run = make_run(method, domains)
        assert translate(run, *arguments) == 0
        arrays, _ = read(run)
        pictures = np.load(run / "pictures.npz")
        seen.append([arrays[name] for name in ("source", "reference", "target")])
        seen[-1] += [pictures["sources"], pictures["references"]]
    for first, second in zip(*seen):
        np.testing.assert_array_equal(first, second)


def test_translating_twice_gives_the_same_bytes(make_run, translate):
    run, files = make_run(Perfect()), []
    for _ in range(2):
        assert translate(run) == 0
        files.append([(run / name).read_bytes() for name in ("translations.safetensors", "pictures.npz")])
    assert files[0] == files[1]


def test_pictures_show_sources_by_references_and_by_domains(make_run, translate):
    run = make_run(Perfect(), ["a", "b"])
    assert translate(run, picture_sources=4) == 0
    pictures = np.load(run / "pictures.npz")
    assert pictures["sources"].shape == (4, 32, 32, 3) and pictures["reference_grid"].shape == (4, 3, 32, 32, 3)
    assert pictures["latent_grid"].shape == (4, 2, 32, 32, 3) and pictures["sources"].dtype == np.uint8
    assert list(pictures["reference_classes"]) == CLASSES and list(pictures["domains"]) == ["cluster 1", "cluster 2"]
    for row in pictures["reference_grid"]:
        np.testing.assert_array_equal(row, pictures["references"])
    by_domain = pictures["latent_grid"].mean(axis=(0, 2, 3, 4))
    assert by_domain[1] > by_domain[0] + 50  # each domain by a code of its own
    np.testing.assert_array_equal(pictures["latent_grid"][0], pictures["latent_grid"][3])  # which all sources share


def test_styles_are_computed_once_for_each_reference(manifest, judge):
    method = Labelled()
    table = np.eye(2, dtype=bool)[np.arange(120) % 2]
    pairs = Pairs(*(np.array(rows) for rows in ([0, 1, 2, 3, 4], [9, 8, 9, 9, 8], [0] * 5, [1] * 5)))
    translator = Translator(method, ImageStore(manifest, "test"), table, batch=2)
    translate_pairs(translator, pairs, load_extractor(FeatureOptions("judge", judge)))
    ((references, labels),) = method.asked
    torch.testing.assert_close(references, ImageStore(manifest, "test").read([8, 9]).float() / 127.5 - 1)
    assert labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_each_reference_gives_style_by_its_own_labels_or_its_nearest_domain(make_run, translate, labels, tmp_path):
    run = make_run(Labelled())
    chosen, without = style_labels(
        Labelled(), tmp_path / "labels", "test", list(labels.keys), ["hat", "beard"], "made-up"
    )
    assert without.tolist() == [True] * 20 + [False] * 100
    assert (chosen[:20] == [False, True]).all() and (chosen[20:] == labels.labels[20:]).all()
    assert not labels.labels[:20].any()  # the labels themselves stay as they are
    assert translate(run, "--labels", tmp_path / "labels") == 0
    arrays, _ = read(run)
    np.testing.assert_array_equal(arrays["unlabelled"], arrays["reference"] < 20)
    assert 0 < arrays["unlabelled"].sum() < 72
    assert list(np.load(run / "pictures.npz")["domains"]) == ["hat", "beard"]


def test_labels_of_other_images_or_domains_are_an_error(make_run, translate, labels, tmp_path, capsys):
    with pytest.raises(LanitError, match="not of the images in this manifest"):
        style_labels(Labelled(), tmp_path / "labels", "test", list(labels.keys)[::-1], ["hat", "beard"], "made-up")
    with pytest.raises(LanitError, match="are of the domains hat, beard, the run's are beard, hat"):
        style_labels(Labelled(), tmp_path / "labels", "test", list(labels.keys), ["beard", "hat"], "made-up")
    assert translate(make_run(Labelled())) == 2
    assert "give their folder with --labels" in capsys.readouterr().err


class Slack(Labelled):
    """Has a domain of its own for images in no other."""

    def extend_labels(self, labels):
        return np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1)


def test_with_a_slack_domain_an_unlabelled_reference_stays_in_it(make_run, translate, labels, tmp_path):
    method = Slack()
    run = make_run(method)
    chosen, without = style_labels(method, tmp_path / "labels", "test", list(labels.keys), ["hat", "beard"], "made-up")
    assert without.tolist() == [True] * 20 + [False] * 100
    assert (chosen[:20] == [False, False, True]).all() and not chosen[20:, 2].any()
    assert (chosen[20:, :2] == labels.labels[20:]).all()
    assert translate(run, "--labels", tmp_path / "labels") == 0
    np.testing.assert_array_equal(read(run)[0]["unlabelled"], read(run)[0]["reference"] < 20)
    assert list(np.load(run / "pictures.npz")["domains"]) == ["hat", "beard"]
    styles = Translator(method, None, None).latent_styles(2, seed=0)
    assert styles.tolist() == [[1, 0, 0], [0, 1, 0]]  # pictures show the named domains alone


@pytest.fixture
def truth(tmp_path, manifest):
    """Labels of truth of two domains, one an image; what truth has of the two (n, 2)."""
    for split, labels in truth_labels(LabellerOptions("truth"), ["hat", "beard"], manifest):
        write_labels(labels, tmp_path / "truth", split)
    return read_truth(manifest, "test")[["hat", "beard"]].to_numpy()


def test_a_supervised_method_takes_a_reference_s_style_in_the_target_s_domain(manifest):
    """It was told what a hat is, so a reference of hats gives a hat's style whatever else it shows and its label is."""
    of_target = target_labels(Labelled(), CLASSES, ["hat", "beard"])
    assert of_target.tolist() == [[True, False], [False, False], [False, False]]
    method, store = Labelled(), ImageStore(manifest, "test")
    own = np.eye(2, dtype=bool)[[0, 1] * 60]
    translator = Translator(method, store, own, batch=3, of_target=of_target)
    styles = translator.reference_styles(np.array([0, 1, 2, 3, 1]), np.array([0, 0, 1, 2, 2]))
    assert styles.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    method.asked.clear()
    pairs = Pairs(*(np.array(rows) for rows in ([5, 6, 7, 8], [1, 1, 3, 1], [0, 1, 0, 0], [1, 2, 1, 1])))
    extractor = SimpleNamespace(features=lambda images: images.float().flatten(1), logits=lambda _: None)
    translate_pairs(translator, pairs, extractor)
    ((references, labels),) = method.asked  # once for each reference and target
    torch.testing.assert_close(references, store.read([1, 1, 3]).float() / 127.5 - 1)
    assert labels.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_a_reference_without_a_label_counts_where_its_class_is_no_candidate(make_run, translate, truth, tmp_path):
    method = Labelled()
    run = make_run(method, supervision="truth")
    assert translate(run, "--labels", tmp_path / "truth") == 0
    arrays, _ = read(run)
    other, shows_none = arrays["target"] != CLASSES.index("hat"), ~truth.any(axis=1)
    np.testing.assert_array_equal(arrays["unlabelled"], shows_none[arrays["reference"]])
    assert not arrays["unlabelled"][~other].any()  # what shows a candidate has a label
    assert 0 < arrays["unlabelled"].sum() < other.sum()
    assert method.asked[-1][1][0].tolist() == [1, 0]  # in the pictures, too


@pytest.mark.parametrize("supervision, other", [("truth", "text"), ("text", "truth")])
def test_labels_that_a_method_may_not_read_are_an_error(
    make_run, translate, labels, truth, tmp_path, capsys, supervision, other
):
    run = make_run(Labelled(), supervision=supervision)
    folder = tmp_path / {"text": "labels", "truth": "truth"}[other]
    assert translate(run, "--labels", folder) == 2
    told = f"come of {other}, and made-up may read labels of {supervision} alone"
    assert told in capsys.readouterr().err and not (run / "translations.safetensors").exists()


def test_the_clusters_of_all_images_are_kept_where_a_method_finds_some(make_run, translate, manifest):
    run = make_run(Clustering())
    assert translate(run, batch=7) == 0
    arrays, about = read(run)
    images = ImageStore(manifest, "test").read(range(120))
    assert arrays["clusters"].dtype == np.int64 and about["clusters"] == 2
    np.testing.assert_array_equal(arrays["clusters"], images[:, 2, 0, 0] > images[:, 0, 0, 0])
    assert 0 < arrays["clusters"].sum() < 120
    assert translate(make_run(Perfect())) == 0
    arrays, about = read(run)
    assert "clusters" not in arrays and "clusters" not in about


class Constant(Perfect):
    def __init__(self, value):
        self.value = value

    def translate(self, sources, styles):
        return torch.full_like(sources, self.value)


@pytest.mark.parametrize("value, pixel", [(-1.4, 0), (-1, 0), (0.0, 128), (0.0118, 129), (1, 255), (3, 255)])
def test_translations_are_rounded_as_a_saved_png_is(manifest, value, pixel):
    translator = Translator(Constant(value), ImageStore(manifest, "test"), None)
    images = translator.translate(np.array([0]), torch.zeros(1, 1))
    assert images.dtype == torch.uint8 and set(images.flatten().tolist()) == {pixel}


def test_features_are_those_of_the_saved_images(make_run, translate, judge, tmp_path):
    from PIL import Image

    run = make_run(Identity())
    assert translate(run, save_images=str(tmp_path / "images")) == 0
    arrays, _ = read(run)
    files = sorted((tmp_path / "images").glob("*/*.png"), key=lambda path: path.name)
    assert len(files) == 72 and [path.parent.name for path in files] == [CLASSES[t] for t in arrays["target"]]
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).copy()) for path in files]).permute(0, 3, 1, 2)
    expected = load_extractor(FeatureOptions("judge", judge)).features(pixels)
    np.testing.assert_allclose(arrays["features"], expected, atol=1e-5)


def test_what_does_not_fit_is_an_error(make_run, translate, capsys, tmp_path):
    run = make_run(Constant(float("nan")))
    assert translate(run) == 2
    assert "translations are not finite" in capsys.readouterr().err
    assert translate(make_run(Perfect()), classes=["hat", "crown"]) == 2
    assert "'crown' is none of the dataset's" in capsys.readouterr().err
    assert translate(run, rounds=9) == 2
    assert "unknown key 'rounds'" in capsys.readouterr().err
    (run / "run.json").write_text(json.dumps({"dataset": "faces"}))
    assert translate(run) == 2
    assert "lacks method, domains" in capsys.readouterr().err
    assert not (run / "translations.safetensors").exists()


def test_files_of_the_same_content_have_the_same_bytes_in_every_process(tmp_path):
    import subprocess

    code = (
        "import sys, numpy as np; from pathlib import Path; from lanit.files import write_tensors;"
        "write_tensors(Path(sys.argv[1]), {'b': np.arange(3), 'a': np.array(1.5)}, dict.fromkeys('zyxwvut', [1, None]))"
    )
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    arrays, metadata = read_tensors(files[0], ("a", "b", "z"), "this test")
    assert (
        arrays["a"] == 1.5 and arrays["b"].tolist() == [0, 1, 2] and metadata == {key: [1, None] for key in "zyxwvut"}
    )
    from safetensors.torch import load_file

    assert load_file(files[0])["b"].tolist() == [0, 1, 2]
    write_tensors(files[1], {"c": np.zeros((2, 0))}, {})
    with pytest.raises(LanitError, match="has no a; give a file that this test wrote"):
        read_tensors(files[1], ("a", "c"), "this test")
