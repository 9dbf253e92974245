"""Prompts: templates with a place for a domain, and the features u_n and u_p that CLIP's text tower gives them.

A template holds `{}` once. The base prompt p is the template with `{}` left out ("a face with."): it describes the
subject and leaves the domain unspecified, which is what makes it a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lanit.config import LanitError

if TYPE_CHECKING:
    from torch import Tensor

    from lanit.language.clip import Clip


def fill(template: str, names: Sequence[str]) -> str:
    """Put names into a template as a person lists them: none, "hat", "hat and glasses", "hat, glasses and beard"."""
    listed = " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
    return _tidy(template.replace("{}", listed))


def base_prompt(template: str) -> str:
    """Return the template without a domain: "a photo of {}." becomes "a photo of."."""
    return fill(template, [])


def check_prompts(domains: Sequence[str], templates: Sequence[str]) -> None:
    """Raise LanitError unless every template holds `{}` once and no domain is empty or given twice (case aside)."""
    if not domains:
        raise LanitError("no domain is given; list at least one under domains")
    check_templates(templates)
    seen: dict[str, str] = {}
    for domain in domains:
        name = " ".join(domain.lower().split())
        if not name:
            raise LanitError("a domain is empty; every domain needs a name")
        if name in seen:
            raise LanitError(f"the domain {domain!r} is given twice; list every domain once")
        seen[name] = domain


def check_templates(templates: Sequence[str]) -> None:
    """Raise LanitError unless there is a template and each holds `{}` exactly once."""
    if not templates:
        raise LanitError("no prompt template is given; list at least one such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise LanitError(f"the prompt template {template!r} must hold {{}} once, where the domain's name goes")


def text_features(clip: Clip, domains: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return u_n (N, k): the mean of the text tower's outputs over the templates, then L2-normalised.

    The mean is of the outputs as they are, as the authors state it, so that a longer vector weighs more. (CLIP's own
    zero-shot recipe normalises before the mean as well.)

    Raises:
        LanitError: see `check_prompts`; or a prompt is longer than the text tower reads.
    """
    from torch.nn import functional as F

    check_prompts(domains, templates)
    outputs = clip.project_text([fill(template, [domain]) for domain in domains for template in templates])
    return F.normalize(outputs.view(len(domains), len(templates), -1).mean(dim=1), dim=-1)


def base_features(clip: Clip, templates: Sequence[str]) -> Tensor:
    """Return u_p (k,): the same mean over the templates' base prompts, L2-normalised."""
    from torch.nn import functional as F

    check_templates(templates)
    return F.normalize(clip.project_text([base_prompt(template) for template in templates]).mean(dim=0), dim=-1)


def _tidy(text: str) -> str:
    return re.sub(r" +([.,;:!?])", r"\1", " ".join(text.split()))
