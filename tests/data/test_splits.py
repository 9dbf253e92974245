"""Splits by rule: a share by hash, enough of each class, and something left to train on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lanit.data.splits import FEW, SplitRule


def test_a_class_keeps_something_to_train_on():
    """Of two images one is tested on; the other stays in train though val has none then."""
    rule, chance = SplitRule(test_share=0.3, val_share=0.3), SplitRule(test_share=1e-9)
    names = [name for name in map(str, range(40)) if Counter(rule.assign([name], "x"))["train"]][:2]
    assert chance.assign(names, "x").count("train") == 1
    assert Counter(rule.assign(names, "x")) == {"train": 1, "test": 1}


def test_from_some_images_on_chance_alone_decides():
    """So that no image of a large class changes its split when others come."""
    names = [f"{i}.png" for i in range(2000)]
    rule = SplitRule(test_share=0.1, val_share=0.1)
    splits = dict(zip(names, rule.assign(names, "all")))
    counts = Counter(splits.values())
    assert all(150 < counts[split] < 250 for split in ("test", "val"))
    first = dict(zip(names[:1000], rule.assign(names[:1000], "half")))
    assert all(splits[name] == split for name, split in first.items())
    truth = np.zeros((2000, 2), bool)
    truth[:, 0], truth[5::400, 1] = True, True  # five of a rare class
    rare = Counter(split for split, shows in zip(rule.assign(names, "all", truth), truth[:, 1]) if shows)
    assert rare["test"] >= 1 and rare["val"] >= 1 and rare["train"] >= 1
    moved = sum(a != b for a, b in zip(splits.values(), rule.assign(names, "all", truth)))
    assert moved <= 2


def test_of_a_small_class_the_share_is_kept_up_to_a_few():
    for size in (10, 30, 60, 90):
        for c in range(20):
            names = [f"class {c}/{i}.png" for i in range(size)]
            counts = Counter(SplitRule(test_share=0.1).assign(names, "x"))
            assert counts["test"] >= min(np.ceil(size / 10), FEW)
