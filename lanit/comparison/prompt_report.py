"""What a run whose prompts learned tells of them in its `prompts.json`, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lanit.comparison.inputs import read_json
from lanit.comparison.render import Cell, Column, Table, text
from lanit.config import LanitError


def read_prompts(path: Path) -> list[Table]:
    """Read `prompts.json`: which words the learned vectors are nearest to, and how the labels changed.

    Raises:
        LanitError: the file is missing or malformed.
    """
    values = read_json(Path(path), "train")
    try:
        return [_words(values["templates"]), _labels(values["labels"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LanitError(f"{path} is malformed ({error!r}); make it again with `lanit train`") from None


def _words(templates: list[dict[str, Any]]) -> Table:
    columns = [
        Column("Template", numeric=False), Column("Began as", numeric=False), Column("Moved by"),
        Column("Nearest words (cosine)", numeric=False),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    rules: set[int] = set()
    for template in templates:
        rules.add(len(rows))
        for i, vector in enumerate(template["vectors"]):
            near = ", ".join(f"{word['token']} ({word['cosine']:.2f})" for word in vector["nearest"])
            name = template["template"] if i == 0 else ""
            rows.append([text(name), text(vector["token"]), text(f"{100 * vector['moved']:.1f}%"), text(near)])
    notes = [
        "Each learned vector of a template: how far it is from the word that it began as, in per cent of that word's "
        "length, and the words of the vocabulary that are nearest to it."
    ]
    return Table("What the prompts have learned", "tab:prompts", columns, rows, notes, rules - {0})


def _labels(labels: dict[str, Any]) -> Table:
    columns = [Column("Domain", numeric=False), Column("Images before"), Column("After"), Column("Changed")]
    rows = [
        [text(name), *(text(f"{100 * row[key]:.1f}%") for key in ("before", "after", "changed"))]
        for name, row in labels["per_domain"].items()
    ]
    last = [f"{100 * labels[key]:.1f}%" for key in ("without_before", "without_after")]
    rows.append([text("no domain"), *map(text, last), text("")])
    notes = [f"Of all labels {100 * labels['changed']:.2f}% changed while the prompts learned."]
    return Table("How the labels changed", "tab:label-changes", columns, rows, notes, {len(rows) - 1})
