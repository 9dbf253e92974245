"""Templates, base prompts, and the features that they give."""

from __future__ import annotations

import pytest
import torch

from lanit.config import LanitError
from lanit.language.prompts import base_features, base_prompt, check_prompts, fill, text_features

TEMPLATES = ["a face with {}.", "high quality image of {}", "{}, drawn"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "a face with."),
        (["hat"], "a face with hat."),
        (["hat", "red hair"], "a face with hat and red hair."),
        (["hat", "red hair", "beard"], "a face with hat, red hair and beard."),
    ],
)
def test_names_are_listed_as_a_person_would(names, expected):
    assert fill("a face with {}.", names) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [("a photo of {}.", "a photo of."), ("the {} photo", "the photo"), ("{} photo", "photo"), ("photo {} !", "photo!")],
)
def test_the_base_prompt_is_the_template_without_its_place(template, expected):
    assert base_prompt(template) == expected


def test_features_are_means_of_the_tower_s_outputs_over_templates(clip):
    domains = ["hat", "red hair"]
    features, base = text_features(clip, domains, TEMPLATES), base_features(clip, TEMPLATES)
    for domain, feature in zip(domains, features):
        outputs = [clip.towers.encode_text(clip.tokenizer([fill(template, [domain])]))[0] for template in TEMPLATES]
        mean = sum(outputs) / len(outputs)
        torch.testing.assert_close(feature, mean / mean.norm())
    outputs = clip.towers.encode_text(clip.tokenizer(["a face with.", "high quality image of", ", drawn"]))
    torch.testing.assert_close(base, outputs.mean(0) / outputs.mean(0).norm())
    assert features.shape == (2, 16) and base.shape == (16,)


@pytest.mark.parametrize(
    ("domains", "templates", "message"),
    [
        ([], ["{}"], "no domain"),
        (["hat"], [], "no prompt template"),
        (["hat"], ["a face with"], "'a face with' must hold {} once"),
        (["hat"], ["{} or {}"], "must hold {} once"),
        (["hat", "beard", "Hat "], ["{}"], "'Hat ' is given twice"),
        (["hat", " "], ["{}"], "a domain is empty"),
    ],
)
def test_prompts_that_cannot_be_meant(domains, templates, message):
    with pytest.raises(LanitError, match=message):
        check_prompts(domains, templates)


def test_a_domain_too_long_for_the_tower(clip):
    with pytest.raises(LanitError, match="longer than the 16 tokens"):
        text_features(clip, ["a very " + "long " * 12 + "name"], ["a face with {}."])
