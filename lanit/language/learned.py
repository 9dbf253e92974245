"""Learnable prompts: t_n = [p_1 … p_L, p_n^domain], of which p_1 … p_L learn and the domain's words do not.

p_1 … p_L are the tokens of a template before the place of the domain, and start as the words' own embeddings. All
domains' prompts and the base prompt of a template share them, so that the adaptive threshold moves with the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from lanit.config import LanitError
from lanit.language.clip import Clip
from lanit.language.prompts import base_prompt, check_prompts, fill


class Prompts(nn.Module):
    """The prompts of N domains, and the base prompt, in T templates whose beginnings learn.

    A deep copy has vectors of its own and shares CLIP, which is no submodule: `vectors` is all there is to train, to
    move and to save.

    Attributes:
        vectors: (sum of L over the templates, W) float32, the p_1 … p_L of the first template, then of the second, …
    """

    def __init__(self, clip: Clip, domains: Sequence[str], templates: Sequence[str]) -> None:
        """Look up the embeddings of all tokens.

        Raises:
            LanitError: see `check_prompts`; no template has a word before {}, or joins it to what follows; a prompt is
                longer than the text tower reads; or the tower is none that token embeddings can be given to.
        """
        super().__init__()
        self._frozen = _Frozen(clip, domains, templates)
        self.vectors = nn.Parameter(self._frozen.start.clone())

    def forward(self) -> Tensor:
        """Return u_1 … u_N and, last, the base prompt's u_p: (N + 1, k) float32, L2-normalised, under autocast too.

        Each is the mean of the text tower's outputs over the templates, as in `text_features`.
        """
        with torch.autocast(self.vectors.device.type, enabled=False):  # cosines with these are compared
            outputs = self._frozen.encode(self.vectors)  # (N + 1, T, k)
            return F.normalize(outputs.mean(dim=1), dim=-1)

    def describe(self) -> list[dict[str, Any]]:
        """Return, JSON-like, per template: `template`, and `vectors`, which tells of each p_1 … p_L:

        `token`, what it started from; `moved`, its L2 distance from there relative to the start's norm; and `nearest`,
        the three entries of the vocabulary with the highest cosine: `token` and `cosine`.
        """
        return self._frozen.describe(self.vectors.detach())


class _Frozen:
    """What learned prompts are put into: embeddings of the fixed tokens, and the text tower. Shared by deep copies."""

    def __init__(self, clip: Clip, domains: Sequence[str], templates: Sequence[str]) -> None:
        check_prompts(domains, templates)
        self.clip, self.templates, self.tower = clip, list(templates), _text_tower(clip)
        prompts = [fill(template, [domain]) for domain in domains for template in templates]
        prompts += [base_prompt(template) for template in templates]
        tokens = clip.tokenize(prompts)  # (P, S), P = (N + 1) T
        starts = [fill(template.partition("{}")[0], []) for template in templates]
        self.learned, first = _words(clip, starts)  # per template, its p_1 … p_L as tokens
        if not any(self.learned):
            raise LanitError(
                "no template has a word before {}, so that there is nothing to learn; begin a template with words, "
                "such as 'a photo of {}.', or set prompts: frozen"
            )
        rows: list[int] = []
        columns: list[int] = []
        places: list[int] = []
        offset = 0
        for t, words in enumerate(self.learned):
            for row in range(t, len(prompts), len(templates)):
                if tokens[row, first : first + len(words)].tolist() != words:
                    raise LanitError(
                        f"the prompt {prompts[row]!r} does not begin with the tokens of {starts[t]!r}, which are to be "
                        f"learned; write the template {templates[t]!r} with a word and a space before {{}}"
                    )
                rows += [row] * len(words)
                columns += range(first, first + len(words))
                places += range(offset, offset + len(words))
            offset += len(words)
        if self.tower.attn_mask is not None:  # causal: what comes after the place that is read is not seen
            tokens = tokens[:, : int(self._read(tokens).max()) + 1]
        self.tokens, device = tokens, tokens.device
        self.rows, self.columns, self.places = (torch.tensor(i, device=device) for i in (rows, columns, places))
        with torch.no_grad():
            self.embedded = self.tower.token_embedding(tokens)  # (P, S, W)
            learned = torch.tensor(sum(self.learned, []), device=device)
            self.start = self.tower.token_embedding(learned)  # (sum of L, W)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frozen:
        return self

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the text tower's outputs (N + 1, T, k), with `vectors` in their places."""
        x = self.embedded.index_put((self.rows, self.columns), vectors[self.places])  # (P, S, W)
        length = x.shape[1]
        x = x + self.tower.positional_embedding[:length]
        mask = self.tower.attn_mask
        x = self.tower.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
        x = text_global_pool(self.tower.ln_final(x), self.tokens, *_pooling(self.tower))  # (P, W)
        projection = self.tower.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return x.view(-1, len(self.templates), x.shape[-1])

    def describe(self, vectors: Tensor) -> list[dict[str, Any]]:
        decoder = getattr(self.clip.tokenizer, "tokenizer", self.clip.tokenizer)  # Hugging Face's is wrapped
        vocabulary = F.normalize(self.tower.token_embedding.weight[: decoder.vocab_size], dim=-1)
        cosines, nearest = (F.normalize(vectors, dim=-1) @ vocabulary.T).topk(3)
        moved = (vectors - self.start).norm(dim=-1) / self.start.norm(dim=-1)
        told = iter(zip(moved.tolist(), nearest.tolist(), cosines.tolist()))

        def name(token: int) -> str:
            return decoder.decode([token]).strip()

        def describe_word(word: int) -> dict[str, Any]:
            distance, tokens, values = next(told)
            near = [{"token": name(token), "cosine": value} for token, value in zip(tokens, values)]
            return {"token": name(word), "moved": distance, "nearest": near}

        return [
            {"template": template, "vectors": [describe_word(word) for word in words]}
            for template, words in zip(self.templates, self.learned)
        ]

    def _read(self, tokens: Tensor) -> Tensor:
        """Return the place (P,) in each sequence whose output the tower returns."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return text_global_pool(places[..., None], tokens, *_pooling(self.tower))[:, 0]


def _text_tower(clip: Clip) -> open_clip.CLIP | TextTransformer:
    """Return the module that holds the parts of the text transformer: the model itself, or its `text`."""
    towers = clip.towers
    if isinstance(towers, open_clip.CLIP):
        return towers
    tower = getattr(towers, "text", None)
    if isinstance(tower, TextTransformer) and tower.cls_emb is None:  # CoCa's reads a token of its own at the end
        return tower
    raise LanitError(
        f"learned prompts need a CLIP text transformer, and the text tower of this {type(towers).__name__} is another "
        "kind; set prompts: frozen, or choose another CLIP"
    )


def _pooling(tower: open_clip.CLIP | TextTransformer) -> tuple[str, int]:
    """Return the tower's way of pooling, and its end-of-text token."""
    if isinstance(tower, open_clip.CLIP):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id


def _words(clip: Clip, texts: Sequence[str]) -> tuple[list[list[int]], int]:
    """Return the tokens of texts, without the tokenizer's marks of beginning and end, and the number of the former."""
    empty, *rows = clip.tokenize(["", *texts]).tolist()
    padding = empty[-1]  # nothing else ends the empty text, which is far shorter than what a tower reads

    def unpadded(row: list[int]) -> list[int]:
        while row and row[-1] == padding:
            row = row[:-1]
        return row

    marks, rows = unpadded(empty), [unpadded(row) for row in rows]
    # The empty text is [start, end], or one of them or neither; a start mark is what all texts begin with.
    first = 1 if marks and all(row[:1] == marks[:1] for row in rows if row != marks) else 0
    end = len(marks) - first
    return [row[first : len(row) - end] for row in rows], first
