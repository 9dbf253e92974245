"""Settings of LANIT (Park et al., CVPR 2023): StarGAN v2's, with the paper's values, and those of language."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lanit.config import Count, LanitError, Positive, Share, Weight
from lanit.settings.stargan2 import LossOptions, StarGan2Options


@dataclass(frozen=True)
class LanitLossOptions(LossOptions):
    """StarGAN v2's terms and the language term; the defaults are the paper's."""

    ds_decay: Positive = 130 / 150  # 130k of 150k iterations
    dl: Weight = 0.5
    # Eq. 5 sums over an image's active domains and averages over images; the released code averages over all pairs.
    adversarial: Literal["image", "pair"] = "image"
    similarity: Literal["cosine", "logit"] = "cosine"


@dataclass(frozen=True)
class PromptOptions:
    """When and how fast prompts learn, where `language.prompts` says that they do."""

    start: Share = 99 / 150  # share of the budget before it: 99k of 150k iterations
    learning_rate: Positive = 1e-5  # the released code's: 1e-6 in its published command, else 2e-5
    weight_decay: Weight = 0.0  # words are not drawn towards zero; the released code's: 1e-4
    relabel_every: Count = 100  # steps from one set of labels to the next


@dataclass(frozen=True)
class LanitOptions(StarGan2Options):
    """Everything that LANIT can be told."""

    loss: LanitLossOptions = field(default_factory=LanitLossOptions)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    mapping_learning_rate: Positive = 1e-4  # LANIT's; StarGAN v2's own is 1e-6
    # Images that every candidate covers: the released code takes no step on a batch that holds one.
    fully_covered: Literal["drawn", "left_out"] = "drawn"

    def check_prompts(self, prompts: str) -> None:
        """Raise LanitError where prompts are to learn from a language loss without a weight."""
        if prompts == "learned" and self.loss.dl == 0:
            raise LanitError(
                "prompts learn from the language loss alone, and train.lanit.settings.loss.dl is 0; "
                "give it a weight or set prompts: frozen"
            )
