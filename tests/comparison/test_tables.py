"""The tables say what the runs said, beside what the paper said, and never mix what was measured differently."""

import csv
import io
import json
import shutil
import subprocess

import pytest
from made_up_sweep import score, write_quality, write_run

from lanit.comparison.inputs import by_setting, read_published, read_qualities, read_scores, variant_name
from lanit.comparison.render import Column, Part, Table, escape_latex, text, to_latex, to_markdown
from lanit.comparison.tables import (
    cluster_tables,
    comparison_csv,
    comparison_tables,
    labels_csv,
    labels_summary,
    labels_table,
    table1,
    table2,
    variant_tables,
)
from lanit.config import LanitError

REQUIRED = [
    "dataset",
    "method",
    "variant",
    "domains",
    "seed",
    "protocol",
    "features",
    "mfid",
    "mkid",
    "density",
    "coverage",
    "hit_rate",
    "hit_rate_candidates",
    "source_rate_candidates",
    "kept_rate",
    "images_seen",
    "train_seconds",
    "n_real",
    "n_fake",
    "code",
    "config",
]


def read(tmp_path, *values):
    return read_scores([write_run(tmp_path, value) / "scores.json" for value in values])


def cells(table):
    """{row's first cells: {group/column: text}} of a table of text."""
    plain = [["".join(part.text for part in cell) for cell in row] for row in table.rows]
    lead = sum(not column.group for column in table.columns)
    return {
        tuple(row[:lead]): {
            f"{column.group}/{column.name}": cell for column, cell in zip(table.columns[lead:], row[lead:], strict=True)
        }
        for row in plain
    }


def test_the_csv_has_every_run_with_all_its_columns(tmp_path):
    scores = read(tmp_path, score(method="tunit"), score(), score(domains=4, mfid=33.25))
    rows = list(csv.DictReader(io.StringIO(comparison_csv(scores))))
    assert set(REQUIRED) <= set(rows[0])
    assert [(row["domains"], row["method"]) for row in rows] == [("4", "lanit"), ("10", "tunit"), ("10", "lanit")]
    assert float(rows[0]["mfid"]) == 33.25 and rows[0]["mkid"] == "0.03325"
    assert (rows[0]["n_real"], rows[0]["n_fake"]) == ("57", "400")  # the class that has fewest
    assert (rows[0]["protocol"], rows[0]["features"]) == ("reference", "judge")


FOUND = {"accuracy": 0.5, "nmi": 0.25, "ari": 0.125, "purity": 0.75, "largest_class": 0.2, "images": 321, "share": 0.4,
         "clusters": 10, "used": 9}  # fmt: skip


def test_found_domains_stand_in_a_table_of_their_own(tmp_path):
    better = FOUND | {"accuracy": 0.7, "used": 10}
    without = dict.fromkeys(FOUND, None) | {"images": 0, "used": 4, "clusters": 4, "share": 0.0}
    scores = read(
        tmp_path,
        score(),
        score(method="tunit", clusters=FOUND),
        score(method="tunit", seed=1, clusters=better),
        score(method="style_aware", clusters=better),
        score(method="tunit", domains=4, clusters=FOUND),
        score(method="tunit", domains=7, clusters=without),  # no image shows one class alone
    )
    (table,) = cluster_tables(scores)
    rows = {
        tuple(row[:2]): row[2:] for row in [["".join(part.text for part in cell) for cell in row] for row in table.rows]
    }
    assert list(rows) == [("4", "TUNIT"), ("10", "TUNIT"), ("10", "Kim et al.")] and table.rules == {1}
    assert rows["10", "TUNIT"] == [
        "60.0 ± 14.1", "0.250 ± 0.000", "0.125 ± 0.000", "75.0 ± 0.0", "20.0 ± 0.0", "9.5 ± 0.7"
    ]  # fmt: skip
    assert rows["10", "Kim et al."][0] == "70.0" and "321 images of split test" in table.notes[0]
    assert cluster_tables(read(tmp_path / "other", score())) == []
    found = list(csv.DictReader(io.StringIO(comparison_csv(scores))))
    assert [(row["method"], row["cluster_accuracy"], row["cluster_images"]) for row in found] == [
        ("tunit", "0.5", "321"), ("tunit", "", "0"), ("tunit", "0.5", "321"), ("tunit", "0.7", "321"),
        ("style_aware", "0.7", "321"), ("lanit", "", ""),
    ]  # fmt: skip


def test_a_rate_that_the_features_cannot_tell_is_empty(tmp_path):
    values = score(features={"kind": "inception", "weights": None})
    values["mean"] |= {"hit_rate": None, "kept_rate": float("nan")}
    (scores,) = [read(tmp_path, values)]
    (row,) = csv.DictReader(io.StringIO(comparison_csv(scores)))
    assert row["hit_rate"] == "" and row["kept_rate"] == ""
    (table,) = comparison_tables(scores)
    assert "–" in [cell[0].text for cell in table.rows[0]]


def test_the_published_file_is_the_papers():
    rows = {(row.table, row.dataset, row.domains, row.method): row for row in read_published()}
    assert len(rows) == 35
    assert rows[1, "celeba_hq", 10, "lanit"].mfid == 27.96
    assert rows[1, "food_10", 10, "style_aware"].density == 1.06
    assert rows[2, "animal_faces_10", 13, "lanit"].coverage == 0.85


def test_table_1_puts_the_published_numbers_beside_ours(tmp_path):
    scores = read(
        tmp_path,
        score("celeba_hq", "lanit", mfid=30.125, density=0.9, coverage=0.3),
        score("celeba_hq", "tunit", mfid=60.0, density=0.25, coverage=0.35),
        score("faces", "lanit", mfid=5.0),
        score("faces", "lanit", domains=4, mfid=1.0),  # another N stays out
    )
    (table,) = table1(scores, read_published(), 10)
    rows = cells(table)
    assert list(rows) == [
        ("StarGAN v2", "labels"), ("Smoothing", "labels"), ("TUNIT", "none"), ("Kim et al.", "none"), ("LANIT", "text"),
    ]  # fmt: skip
    lanit = rows["LANIT", "text"]
    assert lanit["CelebA-HQ/mFID ↓"] == "30.12" and lanit["CelebA-HQ/D&C ↑"] == "0.90 / 0.30"
    assert lanit["CelebA-HQ (paper)/mFID ↓"] == "27.96" and lanit["CelebA-HQ (paper)/D&C ↑"] == "0.91 / 0.34"
    assert lanit["faces/mFID ↓"] == "5.00"
    assert rows["StarGAN v2", "labels"]["CelebA-HQ/mFID ↓"] == "–"
    assert rows["StarGAN v2", "labels"]["CelebA-HQ (paper)/D&C ↑"] == "1.22 / 0.44"
    assert not any(key.startswith("faces (paper)") for key in lanit)
    bold = {"".join(p.text for p in row[0]): [p.bold for cell in row[2:4] for p in cell] for row in table.rows}
    assert bold["LANIT"] == [True, True, False, False]  # mFID, density; TUNIT's coverage is higher
    assert bold["TUNIT"] == [False, False, False, True]


def test_table_2_has_a_row_for_each_n_and_method(tmp_path):
    ours = (("lanit", 70), ("tunit", 80))
    scores = read(tmp_path, *(score("animal_faces_10", method, 4, mfid=mfid) for method, mfid in ours))
    (table,) = table2(scores, read_published())
    rows = cells(table)
    assert list(rows)[:4] == [("4", "TUNIT"), ("4", "LANIT"), ("7", "TUNIT"), ("7", "LANIT")] and len(rows) == 10
    assert rows["4", "LANIT"]["AnimalFaces-10/mFID ↓"] == "70.00"
    assert rows["4", "LANIT"]["AnimalFaces-10 (paper)/mFID ↓"] == "71.6"  # the digits that were printed
    assert rows["16", "TUNIT"]["AnimalFaces-10/D&C ↑"] == "–"
    assert rows["16", "TUNIT"]["AnimalFaces-10 (paper)/D&C ↑"] == "1.09 / 0.78"
    assert table.rules == {2, 4, 6, 8}


def test_a_variant_stands_below_its_method_and_no_published_number_beside_it(tmp_path):
    scores = read(
        tmp_path,
        score("celeba_hq", mfid=30.0),
        score("celeba_hq", variant="lanit_no_dl", mfid=29.0),
        score("celeba_hq", variant="calm", mfid=35.0),
        score("celeba_hq", "tunit", mfid=60.0),
    )
    (first,), (second,) = table1(scores, read_published(), 10), table2(scores, read_published())
    rows = cells(first)
    assert [name for name, _ in rows][-4:] == ["Kim et al.", "LANIT", "LANIT: calm", "LANIT: no dl"]
    paper = {name: row["CelebA-HQ (paper)/mFID ↓"] for (name, _), row in rows.items()}
    assert paper["LANIT"] == "27.96" and paper["LANIT: calm"] == paper["LANIT: no dl"] == "–"
    assert rows["LANIT: no dl", "text"]["CelebA-HQ/mFID ↓"] == "29.00"
    assert first.rows[-1][2][0].bold and not first.rows[-3][2][0].bold  # the best is sought among all of them
    assert [name for n, name in cells(second) if n == "10"] == ["TUNIT", "LANIT", "LANIT: calm", "LANIT: no dl"]
    csv_rows = list(csv.DictReader(io.StringIO(comparison_csv(scores))))
    assert [(row["method"], row["variant"]) for row in csv_rows] == [
        ("tunit", "tunit"), ("lanit", "lanit"), ("lanit", "calm"), ("lanit", "lanit_no_dl"),
    ]  # fmt: skip
    assert variant_name("stargan2", "stargan2_weak_r1") == "StarGAN v2: weak r1"


def test_variants_are_compared_by_all_metrics_at_one_n(tmp_path):
    runs = [score("faces", variant=v, seed=s, mfid=m + s) for v, m in (("lanit", 20), ("lanit_b", 30)) for s in (0, 2)]
    scores = read(tmp_path, *runs, score("faces", domains=4), score("pets"), score("pets", "tunit"))
    (table,) = variant_tables(scores, 10)  # pets have methods alone
    assert table.title == "Variants on faces at N = 10"
    plain = [["".join(part.text for part in cell) for cell in row] for row in table.rows]
    assert [row[:2] for row in plain] == [["LANIT", "21.00 ± 1.41"], ["LANIT: b", "31.00 ± 1.41"]]
    assert plain[0][-3:] == ["50.0 ± 0.0", "60.0 ± 0.0", "90.0 ± 0.0"]
    assert table.rows[0][1][0].bold and not table.rows[1][1][0].bold
    assert variant_tables(scores, 4) == []


def test_an_equal_budget_is_told_once_and_others_by_name(tmp_path):
    runs = [score(variant=variant, images_seen=100) for variant in ("lanit", "lanit_a")]
    (table,) = table1(read(tmp_path / "equal", *runs), [], 10)
    assert table.notes[0].endswith("images seen in training: 100.")
    (table,) = table1(read(tmp_path / "other", *runs, score("faces", "tunit", images_seen=1600)), [], 10)
    assert table.notes[0].endswith("images seen in training: 100 (LANIT, LANIT: a); 1,600 (TUNIT).")


def test_several_seeds_become_mean_and_deviation(tmp_path):
    scores = read(tmp_path, *(score(seed=seed, mfid=mfid) for seed, mfid in enumerate((20.0, 21.0, 25.0))))
    (table,) = table1(scores, read_published(), 10)
    assert cells(table)["LANIT", "text"]["faces/mFID ↓"] == "22.00 ± 2.65"  # sample standard deviation, √7
    assert any("standard deviation" in note for note in table.notes)


def test_the_perceptual_distance_that_a_method_learned_by_is_named(tmp_path):
    write_run(tmp_path, score(method="smoothing", features="judge-12345678", perceptual="clip-aabbccdd"))
    write_run(tmp_path, score(method="style_aware", features="judge-12345678", perceptual="judge-12345678"))
    write_run(tmp_path, score(method="lanit", features="judge-12345678"))
    scores = read_scores(tmp_path.glob("*/*/*/scores.json"))
    for tables in (comparison_tables(scores), table1(scores, read_published(), 10)):
        notes = " ".join(note for table in tables for note in table.notes)
        assert "Smoothing learned by the perceptual distance clip-aabbccdd." in notes
        assert "Kim et al. learned by the perceptual distance judge-12345678, the judge of these very scores." in notes
        assert "LANIT learned" not in notes


def test_scores_of_the_val_split_never_stand_among_those_of_test(tmp_path):
    paths = []
    for split in ("test", "val"):
        protocol = {"name": "reference", "pairs": 36, "split": split}
        paths += [write_run(tmp_path / split, score(seed=s, protocol=protocol)) / "scores.json" for s in (0, 1)]
    found = read_scores(paths)
    assert {frozenset(one.path.parts[-5] for one in group) for group in by_setting(found).values()} == {
        frozenset({"test"}), frozenset({"val"}),
    }  # fmt: skip
    assert len(comparison_tables(found)) == 2
    names = [row["protocol"] for row in csv.DictReader(io.StringIO(comparison_csv(found)))]
    assert sorted(names) == ["reference", "reference", "reference on val", "reference on val"]


def test_different_protocols_or_features_never_share_a_table(tmp_path):
    other = [
        score(method="tunit", mfid=1.0, features={"kind": "inception", "weights": None}),
        score(method="lanit", mfid=2.0, seed=5, protocol={"name": "reference", "rounds": 1}),
    ]
    scores = read(tmp_path, score(), score(seed=1), score("pets"), *other)
    first, second, third = table1(scores, [], 10)
    assert {column.group for column in first.columns} == {"", "faces", "pets"}
    assert {column.group for column in second.columns} == {column.group for column in third.columns} == {"", "faces"}
    everything = [cell for table in (first, second, third) for row in table.rows for cell in row]
    assert not any(part.bold for cell in everything for part in cell)  # no two methods are compared
    assert list(cells(first)) == [("LANIT", "text")]
    for table in (first, second, third):
        note = next(note for note in table.notes if note.startswith("faces:"))
        assert "have another protocol or other features" in note
    assert "inception" in second.notes[0] + third.notes[0]
    assert len(comparison_tables(scores)) == 4
    assert len({row["setting"] for row in csv.DictReader(io.StringIO(comparison_csv(scores)))}) == 3


def test_labellers_of_one_kind_are_told_apart_by_their_names(tmp_path):
    """One may have templates of its own."""
    path = write_quality(tmp_path, "faces", "adaptive", 10, 0.9)
    poor = tmp_path / "faces" / "labels" / "poor-n10" / "quality.json"
    poor.parent.mkdir()
    poor.write_text(path.read_text())
    assert {row.labeller for row in read_qualities([path, poor])} == {"adaptive", "adaptive (poor)"}


def test_label_quality_is_told_per_labeller_and_n(tmp_path):
    paths = [write_quality(tmp_path, "faces", kind, n, f1) for n in (4, 10)
             for kind, f1 in (("adaptive", 0.95), ("top_k", 0.7), ("fixed", None))]  # fmt: skip
    qualities = read_qualities(paths)
    rows = list(csv.DictReader(io.StringIO(labels_csv(qualities))))
    assert {row["dataset"] for row in rows} == {"faces"} and len(rows) == 12
    assert {row["labeller"] for row in rows} == {"adaptive", "top-3", "fixed 0.25"}
    table = labels_summary(qualities)
    assert cells(table)["faces", "test", "adaptive"] == {"Macro F1 ↑/N = 4": "0.950", "Macro F1 ↑/N = 10": "0.950"}
    assert cells(table)["faces", "test", "fixed 0.25"]["Macro F1 ↑/N = 4"] == "–"


def test_labels_of_learned_prompts_stand_beside_those_of_the_label_stage(tmp_path):
    runs = [write_run(tmp_path, score(variant=v, seed=s)) for v in ("lanit", "lanit_b") for s in (0, 1)]
    paths = [write_quality(tmp_path, "faces", "adaptive", 10, f1, run) for f1, run in zip((0.9, 0.8, 0.7, 0.7), runs)]
    qualities = read_qualities([*paths, write_quality(tmp_path, "faces", "adaptive", 10, 0.6)])
    assert {row.dataset for row in qualities} == {"faces"}
    rows = cells(labels_summary(qualities))
    assert {labeller: row["Macro F1 ↑/N = 10"] for (_, _, labeller), row in rows.items()} == {
        "adaptive": "0.600",
        "adaptive, learned (LANIT)": "0.850 ± 0.071",
        "adaptive, learned (LANIT: b)": "0.700 ± 0.000",
    }
    named = [row[2][0].text for row in labels_table(qualities).rows if row[1][0].text == "test"]
    assert named == [
        "adaptive",
        *(f"adaptive, learned ({name}), seed {seed}" for name in ("LANIT", "LANIT: b") for seed in (0, 1)),
    ]
    told = [(row["variant"], row["seed"]) for row in csv.DictReader(io.StringIO(labels_csv(qualities)))]
    assert told[:5] == [("", ""), ("lanit", "0"), ("lanit", "1"), ("lanit_b", "0"), ("lanit_b", "1")]


NASTY = r"50% of $x_1$ & {a} #2 ~ \^ <b>"


def test_latex_is_escaped():
    assert escape_latex(NASTY) == (
        r"50\% of \$x\_1\$ \& \{a\} \#2 \textasciitilde{} \textbackslash{}\textasciicircum{} "
        r"\textless{}b\textgreater{}"
    )
    latex = to_latex(Table(NASTY, "tab:x", [Column("a_b", "g_h"), Column("c")], [[text(NASTY), (Part("1", True),)]]))
    assert r"\textbf{1}" in latex and r"\multicolumn{1}{c}{g\_h}" in latex and r"\toprule" in latex
    assert latex.count("&") - latex.count(r"\&") == 3  # one between the cells of each of three lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    scores = read(tmp_path, score("celeba_hq"), score("celeba_hq", "tunit"))
    body = "".join(to_latex(t) for t in [*table1(scores, read_published(), 10), *comparison_tables(scores)])
    source = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + body + "\\end{document}"
    (tmp_path / "a.tex").write_text(source)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True)


def test_markdown_cells_cannot_break_the_table():
    table = Table("a|b", "x", [Column("c", numeric=False)], [[text("d|e*<f>\nnext")]])
    assert to_markdown(table).splitlines()[4] == r"| d\|e\*&lt;f> next |"


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON"),
        ("[]", "does not hold a mapping"),
        (json.dumps({"dataset": "faces"}), "lacks"),
        (json.dumps(score() | {"mean": {"mfid": "low"}}), "mean.mfid is 'low', not a number"),
        (json.dumps(score() | {"mean": {"mfid": None}}), "mean.mfid is missing"),
        (json.dumps(score() | {"per_class": {}}), "malformed"),
        (json.dumps(score() | {"seed": "first"}), "malformed"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, content, message):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(LanitError, match=message) as error:
        read_scores([path])
    assert str(path) in str(error.value)


def test_missing_and_doubled_files_are_named(tmp_path):
    with pytest.raises(LanitError, match="gone.json cannot be read"):
        read_scores([tmp_path / "gone.json"])
    path = write_run(tmp_path, score()) / "scores.json"
    with pytest.raises(LanitError, match="the same run"):
        read_scores([path, path])
    (tmp_path / "quality.json").write_text("{}")
    with pytest.raises(LanitError, match="quality.json lacks"):
        read_qualities([tmp_path / "quality.json"])
