"""The judge learns what an image shows, repeats itself, and is measured on images it did not learn from."""

import numpy as np
import pytest
import torch

from lanit.config import LanitError
from lanit.evaluation.judge import JudgeOptions, augment, save_judge, train_judge
from lanit.evaluation.scores import decide
from lanit.networks.judge import Judge, load_judge

CLASSES = ["bar", "spot"]
OPTIONS = JudgeOptions(width=4, epochs=4, batch=32, learning_rate=0.01)


def drawn(n, seed, exclusive=False, size=32):
    """Grey noise with a bright bar on top, a dark spot in the middle, both or neither."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 2)) < 0.5
    if exclusive:
        truth[:, 1] = ~truth[:, 0]
    images = rng.integers(100, 150, (n, 3, size, size), dtype=np.uint8)
    images[truth[:, 0], :, : size // 5] = 240
    images[truth[:, 1], :, size * 2 // 5 : size * 3 // 5, size * 2 // 5 : size * 3 // 5] = 10
    return torch.from_numpy(images), truth


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_judge_learns_what_images_show(exclusive):
    judge, accuracy = train_judge(*drawn(480, 0, exclusive), CLASSES, exclusive, OPTIONS)
    assert set(accuracy) == set(CLASSES) and min(accuracy.values()) > 0.95
    images, truth = drawn(100, 1, exclusive)
    with torch.inference_mode():
        assert (decide(judge(images).numpy(), exclusive) == truth).mean() > 0.95


def test_larger_images_are_judged_as_if_they_were_small():
    judge, _ = train_judge(*drawn(480, 0), CLASSES, False, OPTIONS)
    images, truth = drawn(100, 1, size=80)
    with torch.inference_mode():
        assert (decide(judge(images).numpy(), False) == truth).mean() > 0.95


def test_the_same_seed_gives_the_same_judge_and_another_seed_another():
    def weights(seed):
        torch.manual_seed(seed + 1)  # the state outside does not matter
        judge, _ = train_judge(*drawn(120, 0), CLASSES, False, JudgeOptions(width=4, epochs=1, batch=32, seed=seed))
        return judge.head.weight

    torch.testing.assert_close(weights(0), weights(0), rtol=0, atol=0)
    assert not torch.equal(weights(0), weights(1))


def test_accuracy_is_measured_on_images_kept_aside():
    images, truth = drawn(200, 0)
    options = JudgeOptions(width=4, epochs=1, batch=32, held_out=0.25)
    held_out = np.random.default_rng(options.seed).permutation(200)[:50]
    changed = images.clone()
    changed[torch.from_numpy(held_out)] = 0
    judge, accuracy = train_judge(images, truth, CLASSES, False, options)
    blind, other = train_judge(changed, truth, CLASSES, False, options)
    torch.testing.assert_close(judge.head.weight, blind.head.weight, rtol=0, atol=0)  # it never saw them
    with torch.inference_mode():
        expected = (decide(judge(images[held_out]).numpy(), False) == truth[held_out]).mean(0)
    assert list(accuracy.values()) == pytest.approx(list(expected), abs=1e-4)
    assert accuracy != other


def test_accuracy_of_exclusive_classes_is_over_the_images_of_each_class():
    images, truth = drawn(300, 0, exclusive=True)
    options = JudgeOptions(width=4, epochs=1, batch=32)
    judge, accuracy = train_judge(images, truth, CLASSES, True, options)
    held_out = np.random.default_rng(options.seed).permutation(300)[:30]
    with torch.inference_mode():
        said = judge(images[held_out]).argmax(1).numpy()
    for k, label in enumerate(CLASSES):
        assert accuracy[label] == pytest.approx((said[truth[held_out, k]] == k).mean(), abs=1e-4)


def test_a_judge_on_disk_is_the_judge(tmp_path):
    judge, accuracy = train_judge(*drawn(120, 0), CLASSES, False, OPTIONS)
    save_judge(judge, tmp_path / "judge.safetensors", OPTIONS, accuracy)
    again = load_judge(tmp_path / "judge.safetensors")
    images, _ = drawn(8, 2)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), judge(images), rtol=0, atol=0)
    assert (again.classes, again.exclusive, again.size) == (CLASSES, False, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["judge.safetensors"]


def test_logits_are_the_head_of_the_features():
    torch.manual_seed(0)
    judge = Judge(CLASSES, False, width=8).eval()
    images, _ = drawn(5, 0)
    assert judge.features(images).shape == (5, 64)
    torch.testing.assert_close(judge.head(judge.features(images)), judge(images))


def test_augmentation_moves_mirrors_and_dims_whole_images():
    image = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    image[:, :, 10, 4] = 200
    moved = augment(image, torch.Generator().manual_seed(0))
    spots = moved[:, 0].flatten(1).argmax(1)
    rows, columns = spots // 32, spots % 32
    assert moved.dtype == torch.uint8 and set(rows.tolist()) == {8, 9, 10, 11, 12}
    assert set(columns.tolist()) <= {2, 3, 4, 5, 6} | {25, 26, 27, 28, 29}
    assert 20 < (columns > 15).sum() < 44
    peaks = moved[:, 0].flatten(1).amax(1)
    assert 160 <= peaks.min() < 175 and 225 < peaks.max() <= 240
    assert torch.equal(moved[:, 0], moved[:, 2])


def test_a_class_without_images_is_an_error():
    images, truth = drawn(100, 0)
    truth[:, 1] = False
    with pytest.raises(LanitError, match="no image of spot"):
        train_judge(images, truth, CLASSES, False, OPTIONS)


@pytest.mark.parametrize("options", [JudgeOptions(epochs=0), JudgeOptions(held_out=1.0)])
def test_options_out_of_range_are_an_error(options):
    with pytest.raises(LanitError, match="must be at least 1, and judge.held_out between 0 and 1"):
        train_judge(*drawn(100, 0), CLASSES, False, options)


def test_a_file_that_is_no_judge_is_an_error(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(LanitError, match="no file at .*judge.safetensors; lanit evaluate judge makes it"):
        load_judge(tmp_path / "judge.safetensors")
    (tmp_path / "text.safetensors").write_text("not a judge")
    with pytest.raises(LanitError, match="is not what lanit evaluate judge writes"):
        load_judge(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(LanitError, match="has no classes, exclusive"):
        load_judge(tmp_path / "other.safetensors")
