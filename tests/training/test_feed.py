"""What a method with one domain an image is fed: evenly over domains, and a second reference of the first one's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainings import OPTIONS

from lanit.config import parse
from lanit.training.distributed import World
from lanit.training.feed import Feed
from lanit.training.options import TrainOptions

# Of 32 images: one domain large, one small, one empty and one of a single image; the last three images have none.
DOMAINS = np.array([0] * 20 + [3] * 8 + [2] + [-1] * 3)
LABELS = DOMAINS[:, None] == np.arange(4)


@pytest.fixture
def feed(manifest):
    """Makes the feed of a method that asks for two references of images drawn evenly, without augmentation."""

    def make(rank=0, size=1, balanced=True, references=2, **changes):
        options = OPTIONS | {"augment": {"crop": False, "flip": False}} | changes
        made = Feed(parse(TrainOptions, options), manifest, World(rank, size, torch.device("cpu")))
        made.draw_as(SimpleNamespace(balanced=balanced, references=references))
        made.label(LABELS, "")
        return made

    return make


def rows_of(feed, images):
    """Which images of the split these are."""
    all_images = feed.store.read(range(32)).float() / 127.5 - 1
    same = (images[:, None] == all_images).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1).numpy()


def test_sources_and_references_are_drawn_evenly_over_the_domains_that_have_images(feed):
    made, steps = feed(), 60
    for labels in ("source_labels", "reference_labels"):
        counts = sum(getattr(made.parts(step)[0], labels).sum(0) for step in range(steps))
        assert counts[1] == 0 and counts.sum() == 8 * steps
        assert ((counts[[0, 2, 3]] - 160).abs() < 4 * (480 * 2 / 9) ** 0.5).all()


def test_images_carry_their_own_labels(feed):
    made = feed()
    (part,) = made.parts(2)
    for images, labels in ((part.source, part.source_labels), (part.reference, part.reference_labels)):
        assert np.array_equal(labels.bool().numpy(), LABELS[rows_of(made, images)])


def test_a_second_reference_is_another_draw_from_the_domain_of_the_first(feed):
    made, same = feed(), []
    for step in range(8):
        (part,) = made.parts(step)
        first, second = rows_of(made, part.reference), rows_of(made, part.second_reference)
        assert (DOMAINS[first] == DOMAINS[second]).all()
        same.append((first == second)[DOMAINS[first] != 2])  # domain 2 is one image
    assert np.concatenate(same).mean() < 0.4  # a twentieth and an eighth by chance


@pytest.mark.parametrize("size, accumulate", [(2, 1), (1, 2), (2, 2)])
def test_what_is_drawn_evenly_does_not_depend_on_how_the_batch_is_split(feed, size, accumulate):
    whole = feed().parts(3)[0]
    parts = [part for rank in range(size) for part in feed(rank, size, accumulate=accumulate).parts(3)]
    assert len(parts) == size * accumulate
    for name in ("source", "reference", "second_reference", "source_labels", "reference_labels"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name


def test_a_method_that_asks_for_one_reference_of_images_as_they_come_gets_no_second(feed):
    made = feed(balanced=False, references=1)
    drawn = [made.parts(step)[0] for step in range(3)]
    assert all(part.second_reference is None for part in drawn)
    # Eight images a step and 29 with a label: no image comes twice before all have come once.
    assert len({row for part in drawn for row in rows_of(made, part.source)}) == 24


def test_new_labels_change_what_is_drawn(feed):
    made = feed()
    made.label(np.eye(4, dtype=bool)[np.arange(32) % 2], "")
    assert sum(made.parts(step)[0].source_labels for step in range(4)).sum(0).bool().tolist() == [
        True,
        True,
        False,
        False,
    ]
