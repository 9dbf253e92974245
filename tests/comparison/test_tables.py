"""The tables say what the runs said, beside what the paper said, and never mix what was measured differently."""

import csv
import io
import json
import shutil
import subprocess

import pytest
from made_up_sweep import score, write_quality, write_run

from lanit.comparison.render import Column, Part, Table, escape_latex, text, to_latex, to_markdown
from lanit.comparison.scores import read_published, read_qualities, read_scores
from lanit.comparison.tables import comparison_csv, comparison_tables, labels_csv, labels_summary, table1, table2
from lanit.config import LanitError

REQUIRED = (
    "dataset method domains seed protocol features mfid mkid density coverage hit_rate hit_rate_candidates "
    "source_rate_candidates kept_rate images_seen train_seconds n_real n_fake code config"
).split()


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


def test_several_seeds_become_mean_and_deviation(tmp_path):
    scores = read(tmp_path, *(score(seed=seed, mfid=mfid) for seed, mfid in enumerate((20.0, 21.0, 25.0))))
    (table,) = table1(scores, read_published(), 10)
    assert cells(table)["LANIT", "text"]["faces/mFID ↓"] == "22.00 ± 2.65"  # sample standard deviation, √7
    assert any("standard deviation" in note for note in table.notes)


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
