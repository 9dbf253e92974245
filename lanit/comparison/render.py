"""A table as Markdown, as LaTeX with booktabs, and as rows for the report."""

from __future__ import annotations

import dataclasses
import itertools
import re

DASH = "–"


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a cell's text."""

    text: str
    bold: bool = False


Cell = tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's heading, under the heading of its group ("" for none)."""

    name: str
    group: str = ""
    numeric: bool = True


@dataclasses.dataclass
class Table:
    """A table with what a reader needs beside it."""

    title: str
    label: str  # of the LaTeX table
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = dataclasses.field(default_factory=list)
    rules: set[int] = dataclasses.field(default_factory=set)  # rows with a line above them

    def groups(self) -> list[tuple[str, int]]:
        """Groups of neighbouring columns and how many columns each spans."""
        return [(name, len(list(columns))) for name, columns in itertools.groupby(self.columns, lambda c: c.group)]


def text(value: object) -> Cell:
    """A cell of plain text."""
    return (Part(str(value)),)


def to_markdown(table: Table, level: int = 2) -> str:
    """GitHub's Markdown: a heading, the table with each group's name in its columns' headings, the notes."""
    headings = [_markdown(f"{c.group} {c.name}".strip()) for c in table.columns]
    lines = [f"{'#' * level} {_markdown(table.title)}", ""]
    lines.append("| " + " | ".join(headings) + " |")
    lines.append("|" + "|".join("---:" if c.numeric else ":---" for c in table.columns) + "|")
    for row in table.rows:
        cells = ["".join(f"**{_markdown(p.text)}**" if p.bold else _markdown(p.text) for p in cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"- {_markdown(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    r"""A `table` environment for a document that loads booktabs; every text is escaped."""
    alignment = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [r"\begin{table}[t]", r"  \centering", r"  \small", rf"  \begin{{tabular}}{{{alignment}}}", r"    \toprule"]
    if any(column.group for column in table.columns):
        heads, lines_under, start = [], [], 1
        for name, span in table.groups():
            heads.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(name)}}}" if name else " & ".join([""] * span))
            if name:
                lines_under.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        lines += [f"    {' & '.join(heads)} \\\\", f"    {' '.join(lines_under)}"]
    lines += ["    " + " & ".join(escape_latex(column.name) for column in table.columns) + r" \\", r"    \midrule"]
    for index, row in enumerate(table.rows):
        if index in table.rules:
            lines.append(r"    \midrule")
        cells = [
            "".join(rf"\textbf{{{escape_latex(p.text)}}}" if p.bold else escape_latex(p.text) for p in cell)
            for cell in row
        ]
        lines.append("    " + " & ".join(cells) + r" \\")
    caption = " ".join([table.title.rstrip(".") + ".", *(note.rstrip(".") + "." for note in table.notes)])
    lines += [r"    \bottomrule", r"  \end{tabular}", rf"  \caption{{{escape_latex(caption)}}}"]
    lines += [rf"  \label{{{table.label}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def escape_latex(value: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(LATEX.get(character, character) for character in value)


def _markdown(value: str) -> str:
    escaped = re.sub(r"([\\|*`\[\]])", r"\\\1", value)
    return " ".join(escaped.replace("<", "&lt;").split()) if "\n" in escaped else escaped.replace("<", "&lt;")
