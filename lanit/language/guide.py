"""Language in training: CLIP's image tower on translations, and the texts, frozen or learned, that labels come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lanit.language.labels import LabellerOptions


@dataclass(frozen=True)
class LanguageOptions:
    """What a method that is led by language is told of it; what the label stage was told, and the choices beyond."""

    clip: dict[str, Any]  # a ClipOptions: the CLIP that made the labels
    templates: list[str]
    labeller: LabellerOptions = field(default_factory=LabellerOptions)
    prompts: Literal["frozen", "learned"] = "frozen"
    # Images that no candidate covers: never drawn, or in a domain of their own (the paper's first version).
    uncovered: Literal["left_out", "slack"] = "left_out"
