"""The comparison tables: every run, the paper's Table 1 and Table 2 with the published numbers beside ours, the labels.

Numbers of different protocols or features never meet in a table: of each (dataset, setting) the runs stand in a section
of their own, and a note says which setting it is.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence

from lanit.catalogue import EXTERNAL, METHODS
from lanit.comparison.inputs import (
    CLUSTERS,
    MEANS,
    Published,
    Quality,
    Score,
    by_setting,
    dataset_name,
    features_name,
    n_rank,
    protocol_name,
    setting_name,
    variant_name,
    variant_rank,
)
from lanit.comparison.render import DASH, Cell, Column, Part, Table, text

COMPARISON_COLUMNS = (
    "dataset",
    "method",
    "variant",
    "domains",
    "seed",
    "protocol",
    "features",
    "setting",
    *MEANS,
    *(f"cluster_{name}" for name in CLUSTERS),
    "images_seen",
    "train_seconds",
    "n_real",
    "n_fake",
    "code",
    "config",
)
METRICS = (("mfid", False), ("density", True), ("coverage", True))  # name, is more better?
VARIANT_COLUMNS = (  # heading, metric, factor, digits, is more better?
    ("mFID ↓", "mfid", 1, 2, False),
    ("mKID ×1000 ↓", "mkid", 1000, 2, False),
    ("Density ↑", "density", 1, 2, True),
    ("Coverage ↑", "coverage", 1, 2, True),
    ("Hit rate % ↑", "hit_rate", 100, 1, True),
    ("… of candidates % ↑", "hit_rate_candidates", 100, 1, True),
    ("Kept % ↑", "kept_rate", 100, 1, True),
)
CLUSTER_COLUMNS = (  # heading, score, factor, digits
    ("Accuracy % ↑", "accuracy", 100, 1),
    ("NMI ↑", "nmi", 1, 3),
    ("ARI ↑", "ari", 1, 3),
    ("Purity % ↑", "purity", 100, 1),
    ("Largest class %", "largest_class", 100, 1),
    ("Used", "used", 1, 1),
)
SUPERVISION = {"truth": "labels", "text": "text", "none": "none"}  # as the paper's tables call it
PAPER_NOTE = [
    "The columns (paper) are the numbers printed there, measured with Inception features under the authors' own "
    "protocol at 256 × 256: compare their order with ours, not their size."
]
Section = dict[str, list[Score]]  # dataset → its scores of one setting


def comparison_csv(scores: Sequence[Score]) -> str:
    """Every run, one a row, in full precision; an empty field is a number that the protocol cannot tell."""
    rows = []
    for score in scores:
        row: dict[str, object] = {f"cluster_{name}": score.clusters.get(name) for name in CLUSTERS}
        row |= {name: getattr(score, name) for name in COMPARISON_COLUMNS if name not in {*MEANS, *row}}
        row |= score.mean | {"protocol": protocol_name(score), "features": features_name(score)}
        rows.append([row[name] for name in COMPARISON_COLUMNS])
    return _csv(COMPARISON_COLUMNS, rows)


def labels_csv(qualities: Sequence[Quality]) -> str:
    """Label quality, one row a (dataset, labeller, N, split), and a seed where prompts have learned."""
    columns = (
        "dataset", "labeller", "variant", "domains", "seed", "split", "images", "f1_macro", "mean_labels",
        "share_without", "share_all",
    )  # fmt: skip
    return _csv(columns, [[getattr(row, name) for name in columns] for row in qualities])


def comparison_tables(scores: Sequence[Score]) -> list[Table]:
    """Every run, one table a (dataset, setting)."""
    tables: list[Table] = []
    groups = by_setting(scores)
    for (dataset, setting), group in groups.items():
        columns = [
            Column("N"),
            Column("Method", numeric=False),
            Column("Seed"),
            Column("mFID ↓"),
            Column("mKID ×1000 ↓"),
            Column("Density ↑"),
            Column("Coverage ↑"),
            Column("Hit rate ↑"),
            Column("… of candidates ↑"),
            Column("… of sources"),
            Column("Kept ↑"),
            Column("Images seen"),
            Column("Minutes"),
        ]
        rows, rules = [], set()
        for index, score in enumerate(group):
            mean = score.mean
            if index and group[index - 1].domains != score.domains:
                rules.add(index)
            rows.append(
                [
                    text(_or_dash(score.domains)),
                    text(score.name),
                    text(_or_dash(score.seed)),
                    text(_fixed(mean["mfid"], 2)),
                    text(_fixed(None if mean["mkid"] is None else 1000 * mean["mkid"], 2)),
                    text(_fixed(mean["density"], 2)),
                    text(_fixed(mean["coverage"], 2)),
                    text(_percent(mean["hit_rate"])),
                    text(_percent(mean["hit_rate_candidates"])),
                    text(_percent(mean["source_rate_candidates"])),
                    text(_percent(mean["kept_rate"])),
                    text(_count(score.images_seen)),
                    text(_fixed(None if score.train_seconds is None else score.train_seconds / 60, 1)),
                ]
            )
        notes = [_setting_note(group, dataset, groups)]
        notes.append(f"Code: {', '.join(sorted({score.code[:12] for score in group}))}.")
        notes += _perceptual_notes(group)
        if any(score.mean["hit_rate"] is not None for score in group):
            notes.append(
                "Hit rate: share of translations that show the target, over all evaluation classes and over those "
                "among the N candidates, beside the share of untranslated sources that do. Kept: how often the other "
                "attributes, on which source and reference agree, are still so in the translation."
            )
        label = f"tab:comparison-{dataset}" + ("" if _first(groups, dataset) == setting else f"-{setting[:6]}")
        title = f"All runs on {dataset_name(dataset)}, protocol {protocol_name(group[0])}"
        title += f", features {features_name(group[0])}"
        title += f", setting {setting[:6]}" * (sum(name == dataset for name, _ in groups) > 1)
        tables.append(Table(title, label.replace("_", "-"), columns, rows, notes, rules))
    return tables


def variant_tables(scores: Sequence[Score], domains: int) -> list[Table]:
    """Variants at one N, one table a (dataset, setting) that has some: means over seeds, one row a variant."""
    tables: list[Table] = []
    groups = by_setting(score for score in scores if score.domains == domains)
    for (dataset, _), group in groups.items():
        variants = dict.fromkeys((score.method, score.variant) for score in group)
        if len(variants) == len({method for method, _ in variants}):
            continue
        columns = [Column("Method", numeric=False)] + [Column(heading) for heading, *_ in VARIANT_COLUMNS]
        rows = [[text(variant_name(*pair))] for pair in variants]
        for _, metric, scale, digits, more in VARIANT_COLUMNS:
            values = [
                [scale * mean for s in group if s.variant == variant and (mean := s.mean[metric]) is not None]
                for _, variant in variants
            ]
            best = _best(values, [0] * len(values), more)
            for index, row in enumerate(rows):
                row.append((Part(_spread(values[index], digits), index in best),) if values[index] else text(DASH))
        notes = [_setting_note(group, dataset, groups), *_seeds_note([group]), *_perceptual_notes(group)]
        notes.append("The best of each column is bold.")
        label = _numbered(f"tab:variants-{dataset}".replace("_", "-"), tables)
        tables.append(Table(f"Variants on {dataset_name(dataset)} at N = {domains}", label, columns, rows, notes))
    return tables


def cluster_tables(scores: Sequence[Score]) -> list[Table]:
    """How well found domains agree with truth, one table a (dataset, setting) that has some: means over seeds."""
    tables: list[Table] = []
    groups = by_setting(score for score in scores if score.clusters.get("accuracy") is not None)
    for (dataset, _), group in groups.items():
        rows: list[list[Cell]] = []
        rules: set[int] = set()
        before = None
        for n, method, variant in dict.fromkeys((s.domains, s.method, s.variant) for s in group):
            runs = [s for s in group if (s.domains, s.variant) == (n, variant)]
            row = [text(n), text(variant_name(method, variant))]
            for _, name, scale, digits in CLUSTER_COLUMNS:
                values = [scale * value for s in runs if (value := s.clusters[name]) is not None]
                row.append(text(_spread(values, digits)))
            if before not in (None, n):
                rules.add(len(rows))
            rows.append(row)
            before = n
        columns = [Column("N"), Column("Method", numeric=False)] + [Column(heading) for heading, *_ in CLUSTER_COLUMNS]
        split = group[0].protocol.get("split", "test") if isinstance(group[0].protocol, dict) else "test"
        notes = [
            f"Over the {group[0].clusters['images']:,} images of split {split} that show exactly one of the evaluation "
            "classes. Accuracy: by the best one-to-one matching of clusters and classes; largest class: what one "
            "cluster for all would have as accuracy and purity; used: clusters with any image of the split.",
            *_seeds_note([group]),
        ]
        label = _numbered(f"tab:clusters-{dataset}".replace("_", "-"), tables)
        tables.append(Table(f"Found domains on {dataset_name(dataset)}", label, columns, rows, notes, rules))
    return tables


def table1(scores: Sequence[Score], published: Sequence[Published], domains: int) -> list[Table]:
    """The paper's Table 1: methods × datasets at one N, mFID and density / coverage, the published beside ours.

    A variant stands below its method, and external systems, which have no N, below all; what was published stands
    beside the method itself.
    """
    tables: list[Table] = []
    for section, notes in _sections(scores):
        chosen = {dataset: [s for s in group if s.domains in (domains, None)] for dataset, group in section.items()}
        papers = {d: [p for p in published if (p.table, p.dataset, p.domains) == (1, d, domains)] for d in section}
        present = {(s.method, s.variant) for group in chosen.values() for s in group}
        present |= {(p.method, p.method) for ps in papers.values() for p in ps}
        variants = sorted(present, key=lambda pair: variant_rank(*pair))
        columns = [Column("Method", numeric=False), Column("Supervision", numeric=False)]
        names = _names(section)
        rows = [[text(names.get((m, v)) or variant_name(m, v)), text(_supervision(m))] for m, v in variants]
        for dataset in section:
            ours = [_ours(chosen[dataset], *pair) for pair in variants]
            paper = [_paper(papers[dataset], v) for _, v in variants]
            _add_dataset(columns, rows, dataset, ours, paper, [0] * len(variants), paper_digits=2)
        notes = notes + PAPER_NOTE * any(papers.values())
        missing = [dataset_name(d) for d in section if all(s.is_external for s in chosen[d])]
        if missing:
            notes = [*notes, f"No run at N = {domains}: {', '.join(missing)}."]
        title = f"Comparison at N = {domains}" + (", second setting" if tables else "")
        tables.append(Table(title, _numbered("tab:methods", tables), columns, rows, notes))
    return tables


def table2(scores: Sequence[Score], published: Sequence[Published]) -> list[Table]:
    """The paper's Table 2: each method at each N, datasets as column groups, the published numbers beside ours."""
    tables: list[Table] = []
    for section, notes in _sections(scores):
        papers = {d: [p for p in published if (p.table, p.dataset) == (2, d)] for d in section}
        present = {(s.domains, s.method, s.variant) for group in section.values() for s in group}
        present |= {(p.domains, p.method, p.method) for ps in papers.values() for p in ps}
        keys = sorted(present, key=lambda key: (n_rank(key[0]), variant_rank(*key[1:])))
        columns = [Column("N"), Column("Method", numeric=False)]
        names = _names(section)
        rows = [[text(_or_dash(n)), text(names.get((m, v)) or variant_name(m, v))] for n, m, v in keys]
        for dataset, group in section.items():
            ours = [_ours([s for s in group if s.domains == n], m, v) for n, m, v in keys]
            paper = [_paper([p for p in papers[dataset] if p.domains == n], v) for n, _, v in keys]
            _add_dataset(columns, rows, dataset, ours, paper, [n for n, _, _ in keys], paper_digits=1)
        notes = notes + PAPER_NOTE * any(papers.values())
        rules = {i for i in range(1, len(keys)) if keys[i][0] != keys[i - 1][0]}
        title = "Comparison by number of candidate domains N" + (", second setting" if tables else "")
        tables.append(Table(title, _numbered("tab:domains", tables), columns, rows, notes, rules))
    return tables


def labels_summary(qualities: Sequence[Quality]) -> Table:
    """Macro F1 of each labeller (rows) at each N (columns) on the test split, or the first where there is none."""
    counts = sorted({row.domains for row in qualities})
    first: dict[str, str] = {}
    for row in qualities:  # sorted with `test` first
        first.setdefault(row.dataset, row.split)
    chosen = [row for row in qualities if row.split == first[row.dataset]]
    keys = list(dict.fromkeys((row.dataset, row.labeller) for row in chosen))
    values: dict[tuple, list[float]] = {}  # over the seeds, where prompts have learned
    for row in chosen:
        if row.f1_macro is not None:
            values.setdefault((row.dataset, row.labeller, row.domains), []).append(row.f1_macro)
    columns = [Column("Dataset", numeric=False), Column("Split", numeric=False), Column("Labeller", numeric=False)]
    columns += [Column(f"N = {n}", "Macro F1 ↑") for n in counts]
    rows = []
    for dataset, labeller in keys:
        cells = [text(dataset_name(dataset)), text(first[dataset]), text(labeller)]
        for n in counts:
            known = {other: values.get((dataset, other, n)) for name, other in keys if name == dataset}
            means = {other: round(statistics.fmean(each), 3) for other, each in known.items() if each}
            best = len(means) > 1 and means.get(labeller) == max(means.values())
            f1 = known[labeller]
            cells.append((Part(_spread(f1, 3) if f1 else DASH, best),))
        rows.append(cells)
    rules = {i for i in range(1, len(keys)) if keys[i][0] != keys[i - 1][0]}
    notes = ["Macro F1 is over the domains that have truth; a dash where none has. The best at each N is bold."]
    return Table("Quality of the pseudo labels", "tab:labels", columns, rows, notes, rules)


def labels_table(qualities: Sequence[Quality]) -> Table:
    """Label quality, one row a (dataset, labeller, N, split), and a seed where prompts have learned."""
    columns = [
        Column("Dataset", numeric=False),
        Column("Split", numeric=False),
        Column("Labeller", numeric=False),
        Column("N"),
        Column("Macro F1 ↑"),
        Column("Labels an image"),
        Column("Images without"),
        Column("Images with all"),
        Column("Images"),
    ]
    rows, rules = [], set()
    for index, row in enumerate(qualities):
        before = qualities[index - 1] if index else row
        if (before.dataset, before.split, before.labeller) != (row.dataset, row.split, row.labeller):
            rules.add(index)
        rows.append(
            [
                text(dataset_name(row.dataset)),
                text(row.split),
                text(row.labeller + ("" if row.seed is None else f", seed {row.seed}")),
                text(row.domains),
                text(_fixed(row.f1_macro, 3)),
                text(_fixed(row.mean_labels, 2)),
                text(_percent(row.share_without)),
                text(_percent(row.share_all)),
                text(f"{row.images:,}"),
            ]
        )
    notes = ["Images without: share of images that got no label; with all: share of images that got every label."]
    return Table("Pseudo labels in full", "tab:labels-full", columns, rows, notes, rules)


def _sections(scores: Sequence[Score]) -> Iterable[tuple[Section, list[str]]]:
    """The k-th section holds each dataset's k-th setting, with the notes that name it."""
    groups = by_setting(scores)
    ranks: dict[str, int] = {}
    sections: list[Section] = []
    for (dataset, _), group in groups.items():
        rank = ranks[dataset] = ranks.get(dataset, -1) + 1
        if rank == len(sections):
            sections.append({})
        sections[rank][dataset] = group
    for section in sections:
        notes = [_setting_note(group, dataset, groups) for dataset, group in section.items()]
        notes += _seeds_note(section.values())
        notes += _perceptual_notes([score for group in section.values() for score in group])
        notes.append("D&C is density / coverage; the best of each column at each N is bold.")
        yield section, notes


def _seeds_note(groups: Iterable[Sequence[Score]]) -> list[str]:
    several = any(len({score.seed for score in group if not score.is_external}) > 1 for group in groups)
    return ["Mean ± standard deviation over the seeds of each row."] * several


def _perceptual_notes(scores: Sequence[Score]) -> list[str]:
    """Which perceptual distances methods learned by; and where one is of the features that scores are taken in."""
    notes = []
    for score in scores:
        name = score.raw.get("perceptual")
        if name is not None:
            told = f"{variant_name(score.method, score.variant)} learned by the perceptual distance {name}"
            notes.append(told + (", the judge of these very scores." if name == score.features else "."))
    return sorted(set(notes))


def _setting_note(group: Sequence[Score], dataset: str, groups: dict[tuple[str, str], list[Score]]) -> str:
    budgets: dict[int, dict[str, None]] = {}
    for score in group:
        if score.images_seen is not None:  # an external system has no budget
            budgets.setdefault(score.images_seen, {})[score.name] = None
    seen = "; ".join(f"{images:,} ({', '.join(names)})" for images, names in sorted(budgets.items()))
    seen = seen if len(budgets) > 1 else _count(next(iter(budgets), None))
    told = "".join(
        f" {s.name}: translated elsewhere, {s.raw['external']['pairs']:,} of {s.raw['external']['of']:,} pairs."
        for s in group
        if s.is_external
    )
    others = sum(1 for name, _ in groups if name == dataset) - 1
    warning = " Other runs on this dataset have another protocol or other features and stand in a table of their own."
    warning = warning if others else ""
    return (
        f"{dataset_name(dataset)}: {setting_name(group[0])}; at least {min(s.n_real for s in group):,} real and "
        f"{min(s.n_fake for s in group):,} translated images a class; images seen in training: {seen}.{told}{warning}"
    )


def _add_dataset(
    columns: list[Column],
    rows: list[list[Cell]],
    dataset: str,
    ours: list[dict[str, list[float]]],
    paper: list[dict[str, list[float]]],
    blocks: Sequence[int | None],
    paper_digits: int,
) -> None:
    """Add a dataset's columns; the best value is sought among the rows with the same entry in `blocks`."""
    name = dataset_name(dataset)
    published = any(paper)
    for group, values in ((name, ours), (f"{name} (paper)", paper)):
        if values is paper and not published:
            continue
        columns += [Column("mFID ↓", group), Column("D&C ↑", group)]
        best = {metric: _best([v.get(metric) for v in values], blocks, more) for metric, more in METRICS}
        for index, row in enumerate(rows):
            value = values[index]
            if not value:
                row += [text(DASH), text(DASH)]
                continue
            digits = {"mfid": paper_digits if values is paper else 2}
            parts = {m: Part(_spread(value[m], digits.get(m, 2)), index in best[m]) for m, _ in METRICS}
            row += [(parts["mfid"],), (parts["density"], Part(" / "), parts["coverage"])]


def _supervision(method: str) -> str:
    if method == EXTERNAL:
        return EXTERNAL
    return SUPERVISION[METHODS[method].supervision] if method in METHODS else DASH


def _names(section: Section) -> dict[tuple[str, str], str]:
    return {(score.method, score.variant): score.name for group in section.values() for score in group}


def _ours(group: Sequence[Score], method: str, variant: str) -> dict[str, list[float]]:
    chosen = [score for score in group if (score.method, score.variant) == (method, variant)]
    return {metric: [score.measured(metric) for score in chosen] for metric, _ in METRICS} if chosen else {}


def _paper(rows: Sequence[Published], variant: str) -> dict[str, list[float]]:
    rows = [row for row in rows if row.method == variant]
    return {metric: [getattr(rows[0], metric)] for metric, _ in METRICS} if rows else {}


def _best(values: Sequence[list[float] | None], blocks: Sequence[int | None], more: bool) -> set[int]:
    best: set[int] = set()
    for block in set(blocks):
        means = {i: round(statistics.fmean(v), 2) for i, v in enumerate(values) if v and blocks[i] == block}
        if len(means) > 1:
            top = (max if more else min)(means.values())
            best |= {i for i, mean in means.items() if mean == top}
    return best


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean, and ± sample standard deviation where there are several values."""
    mean = _fixed(statistics.fmean(values), digits)
    return mean if len(values) == 1 else f"{mean} ± {_fixed(statistics.stdev(values), digits)}"


def _first(groups: dict[tuple[str, str], list[Score]], dataset: str) -> str:
    return next(setting for name, setting in groups if name == dataset)


def _numbered(label: str, tables: Sequence[Table]) -> str:
    return label if not tables else f"{label}-{len(tables) + 1}"


def _fixed(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _or_dash(value: int | None) -> str:
    return DASH if value is None else str(value)


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return stream.getvalue()
