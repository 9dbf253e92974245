"""Learned prompts: what they start as, what moves with them, what does not, and what cannot be learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from lanit.config import LanitError
from lanit.language.clip import Clip, find_model
from lanit.language.learned import Prompts
from lanit.language.prompts import base_features, text_features

DOMAINS = ["hat", "red hair", "extraordinary spectacles"]  # 1, 2 and 3 tokens
TEMPLATES = ["a face with {}.", "{}, drawn", "high quality image of {} and more"]
SHIFT = torch.linspace(-1, 1, 16)  # layer normalisation would swallow a constant


@pytest.fixture
def make(tiny, tmp_path):
    """Return a function that makes a tiny CLIP whose text tower has other settings."""

    def build(custom_text: bool = False, **text_cfg) -> Clip:
        path = tmp_path / "clip-other.json"
        settings = json.loads(Path(tiny.model).read_text()) | {"custom_text": custom_text}
        settings["text_cfg"] |= text_cfg
        path.write_text(json.dumps(settings))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            towers = open_clip.create_model(find_model(str(path)))
        return Clip(towers, open_clip.get_tokenizer(path.stem), settings["embed_dim"])

    return build


def frozen(clip: Clip, domains: list[str], templates: list[str]) -> torch.Tensor:
    return torch.cat([text_features(clip, domains, templates), base_features(clip, templates)[None]])


@pytest.mark.parametrize("templates", [TEMPLATES, TEMPLATES[:1], TEMPLATES[::-1]])
@pytest.mark.parametrize("domains", [DOMAINS, DOMAINS[2:]])
def test_at_first_they_are_the_frozen_prompts(clip, domains, templates):
    features = Prompts(clip, domains, templates)()
    torch.testing.assert_close(features, frozen(clip, domains, templates), atol=1e-6, rtol=0)
    assert features.shape == (len(domains) + 1, 16) and features.dtype == torch.float32


@pytest.mark.parametrize("custom_text", [False, True], ids=["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"layers": 3}, 11),  # the longest prompt: start, 4 + 1 + 3 + 2 tokens, end; no further token is computed
        ({"pool_type": "eos", "eos_id": 49407}, 11),
        ({"pool_type": "last"}, 16),  # what is read stands behind the padding
        ({"pool_type": "last", "no_causal_mask": True}, 16),
        ({"no_causal_mask": True}, 16),
        ({"proj_bias": True}, 11),
        ({"proj_type": "none"}, 11),
    ],
)
def test_every_kind_of_clip_text_transformer_gives_what_it_gives_to_texts(make, custom_text, settings, length):
    clip = make(custom_text, **settings)
    read = []
    transformer = clip.towers.text.transformer if custom_text else clip.towers.transformer
    expected = frozen(clip, DOMAINS, TEMPLATES)
    transformer.register_forward_pre_hook(lambda module, inputs: read.append(tuple(inputs[0].shape)))
    torch.testing.assert_close(Prompts(clip, DOMAINS, TEMPLATES)(), expected, atol=1e-6, rtol=0)
    assert read == [(12, length, 16)]  # once, all prompts


@pytest.mark.parametrize(
    ("start", "end", "padding"), [([], [1], 1), ([], [1], 0), ([2], [], 0)], ids=["SigLIP", "SigLIP 2", "CLIPA"]
)
def test_other_tokenizers_mark_beginning_and_end_otherwise(make, start, end, padding):
    clip = make(custom_text=True, pool_type="last", no_causal_mask=True)

    def tokenizer(texts, context_length=16):
        rows = [[*start, *(sum(word.encode()) for word in text.split())] for text in texts]
        rows = [row[: context_length - len(end)] + end for row in rows]
        return torch.tensor([row + [padding] * (context_length - len(row)) for row in rows])

    tokenizer.context_length = 16
    clip.tokenizer = tokenizer
    prompts = Prompts(clip, DOMAINS, ["a face with {} today", "{} drawn"])
    words = tokenizer(["a face with"])[0, len(start) : len(start) + 3]
    assert torch.equal(prompts.vectors, clip.towers.text.token_embedding(words))
    torch.testing.assert_close(prompts(), frozen(clip, DOMAINS, prompts._frozen.templates), atol=1e-6, rtol=0)


def test_a_moved_vector_is_what_the_vocabulary_with_that_word_moved_gives(clip):
    """Moves `face`, which no other place holds, in the table of embeddings instead."""
    prompts = Prompts(clip, DOMAINS, TEMPLATES[:1])
    word = clip.tokenizer(["face"])[0, 1]
    table = copy.deepcopy(clip)
    with torch.no_grad():
        table.towers.token_embedding.weight[word] += SHIFT
        prompts.vectors[1] += SHIFT
    torch.testing.assert_close(prompts(), frozen(table, DOMAINS, TEMPLATES[:1]), atol=1e-6, rtol=0)
    assert not torch.allclose(prompts(), frozen(clip, DOMAINS, TEMPLATES[:1]), atol=1e-3)


def test_only_the_words_before_the_domain_learn(clip):
    """A word that stands in the beginning and in the domain or at the end moves in the beginning alone."""
    prompts = Prompts(clip, ["face"], ["face {} face."])
    with torch.no_grad():
        prompts.vectors += SHIFT
    tokens = clip.tokenizer(["face face face.", "face face."])
    towers, mask = clip.towers, clip.towers.attn_mask
    x = towers.token_embedding(tokens)
    x[:, 1] += SHIFT
    x = towers.ln_final(towers.transformer(x + towers.positional_embedding, attn_mask=mask))
    outputs = x[torch.arange(2), tokens.argmax(dim=1)] @ towers.text_projection
    torch.testing.assert_close(prompts(), nn.functional.normalize(outputs, dim=1), atol=1e-6, rtol=0)


def test_every_domain_and_the_base_prompt_lean_on_every_template_s_own_vectors(clip):
    prompts = Prompts(clip, DOMAINS, TEMPLATES)
    assert prompts.vectors.shape == (3 + 0 + 4, 16)
    for row in range(4):
        (gradient,) = torch.autograd.grad(prompts()[row] @ SHIFT, prompts.vectors)
        assert (gradient.abs().sum(dim=1) > 1e-4).all()


def test_the_gradient_is_that_of_finite_differences_and_reaches_the_vectors_alone(clip):
    clip = copy.deepcopy(clip).double()
    prompts = Prompts(clip, DOMAINS[:2], TEMPLATES)
    assert torch.autograd.gradcheck(
        lambda vectors: torch.func.functional_call(prompts, {"vectors": vectors}), prompts.vectors, fast_mode=True
    )
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    optimiser = torch.optim.SGD(prompts.parameters(), 1.0)
    prompts()[:, 0].sum().backward()
    optimiser.step()
    assert prompts.vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in clip.parameters())
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_the_vectors_are_all_that_is_trained_moved_and_saved(clip):
    prompts = Prompts(clip, DOMAINS, TEMPLATES)
    assert list(prompts.state_dict()) == [name for name, _ in prompts.named_parameters()] == ["vectors"]
    assert not list(prompts.buffers()) and len(list(prompts.modules())) == 1
    prompts.to(torch.float64).train()
    assert clip.towers.token_embedding.weight.dtype == torch.float32 and not clip.towers.training


def test_a_deep_copy_moves_by_itself_and_shares_the_towers(clip):
    prompts = Prompts(clip, DOMAINS, TEMPLATES)
    networks = nn.ModuleDict({"prompts": prompts})
    other = copy.deepcopy(networks)["prompts"]
    assert other._frozen is prompts._frozen and other._frozen.clip is clip
    with torch.no_grad():
        prompts.vectors += SHIFT
    torch.testing.assert_close(other(), frozen(clip, DOMAINS, TEMPLATES), atol=1e-6, rtol=0)
    assert not torch.allclose(prompts(), other(), atol=1e-3)
    other.load_state_dict(prompts.state_dict())
    assert torch.equal(prompts(), other())


def test_autocast_around_them_changes_nothing(clip):
    prompts = Prompts(clip, DOMAINS, TEMPLATES)
    with torch.autocast("cpu", torch.bfloat16):
        features = prompts()
    assert features.dtype == torch.float32 and torch.equal(features, prompts())


def test_what_they_learned_is_told_in_words(clip):
    prompts = Prompts(clip, DOMAINS, TEMPLATES)
    told = json.loads(json.dumps(prompts.describe()))
    assert [part["template"] for part in told] == TEMPLATES
    words = [[vector["token"] for vector in part["vectors"]] for part in told]
    assert words == [["a", "face", "with"], [], ["high", "quality", "image", "of"]]
    assert all(vector["moved"] == 0 for part in told for vector in part["vectors"])
    hat, table = int(clip.tokenizer(["hat"])[0, 1]), clip.towers.token_embedding.weight
    face = prompts.vectors[1].detach().clone()
    with torch.no_grad():
        prompts.vectors[1] = 3 * table[hat]
    vector = prompts.describe()[0]["vectors"][1]
    assert vector["token"] == "face" and next(near["token"] for near in vector["nearest"]) == "hat"
    assert vector["nearest"][0]["cosine"] == pytest.approx(1)
    assert len(vector["nearest"]) == 3 and vector["nearest"][1]["cosine"] < 0.999
    assert vector["moved"] == pytest.approx(((3 * table[hat] - face).norm() / face.norm()).item())


@pytest.mark.parametrize(
    ("domains", "templates", "message"),
    [
        (["hat"], ["{}", "{} drawn"], "no template has a word before {}"),
        (["hat"], ["a face with {}", "photo{} in colour"], "'photohat in colour' does not begin with .* 'photo'"),
        (["hat"], ["it shows: {}."], "'it shows:.' does not begin with .*write the template 'it shows: {}.' with"),
        (["long " * 12 + "name"], ["a face with {}."], "longer than the 16 tokens"),
        (["hat"], ["a face"], "must hold {} once"),
        (["hat", "Hat"], ["a face with {}"], "given twice"),
    ],
)
def test_prompts_that_cannot_learn(clip, domains, templates, message):
    with pytest.raises(LanitError, match=message):
        Prompts(clip, domains, templates)


def test_a_text_tower_of_another_kind(make):
    """CoCa's appends a token; Hugging Face's takes no embeddings that we know how to give."""
    clip = make(custom_text=True, embed_cls=True)
    with pytest.raises(LanitError, match="need a CLIP text transformer.*CustomTextCLIP.*set prompts: frozen"):
        Prompts(clip, DOMAINS, TEMPLATES)
    clip.towers.text = nn.Linear(16, 16)
    with pytest.raises(LanitError, match="need a CLIP text transformer"):
        Prompts(clip, DOMAINS, TEMPLATES)
