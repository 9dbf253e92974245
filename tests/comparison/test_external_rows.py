"""Systems whose translations were made elsewhere: in the same tables and plots, without an N, a seed or a budget."""

import csv
import io
import json

import numpy as np
import pytest
from made_up_sweep import pictures, score, write_run
from PIL import Image

from lanit.cli import main
from lanit.comparison.inputs import read_scores
from lanit.comparison.plots import CYCLE, plot_hit_rate, plot_mfid
from lanit.comparison.tables import comparison_csv, comparison_tables, table1, table2, variant_tables


def external(title="StyleCLIP", variant="clip", pairs=300, **changes):
    told = {"title": title, "files": pairs, "pairs": pairs, "of": 3240}
    nothing = dict.fromkeys(("domains", "seed", "images_seen", "train_seconds"))
    return score(method="external", variant=variant, external=told, **{**nothing, **changes})


def read(tmp_path, *values):
    return read_scores([write_run(tmp_path, value) / "scores.json" for value in values])


def plain(table):
    return [["".join(part.text for part in cell) for cell in row] for row in table.rows]


@pytest.fixture
def scores(tmp_path):
    runs = [score(method=method, domains=n) for method in ("lanit", "tunit") for n in (4, 10)]
    return read(tmp_path, external("Editor", "a_b", 3240, mfid=7.0), *runs, external(mfid=90.0))


def test_it_has_rows_of_its_own_below_all_others(scores):
    (full,) = comparison_tables(scores)
    rows = plain(full)
    assert [row[:3] for row in rows[4:]] == [["–", "Editor (external)", "–"], ["–", "StyleCLIP (external)", "–"]]
    assert rows[5][3] == "90.00" and rows[5][-2:] == ["–", "–"] and rows[3][-2:] == ["64,000", "1.5"]
    assert full.rules == {2, 4}
    note = full.notes[0]
    assert "images seen in training: 64,000. Editor (external): translated elsewhere, 3,240 of 3,240 pairs." in note
    assert "StyleCLIP (external): translated elsewhere, 300 of 3,240 pairs." in note
    assert variant_tables(scores, 10) == []
    by_column = list(csv.DictReader(io.StringIO(comparison_csv(scores))))[-1]
    assert (by_column["method"], by_column["variant"], by_column["mfid"]) == ("external", "clip", "90.0")
    assert {by_column[name] for name in ("domains", "seed", "images_seen", "train_seconds")} == {""}


def test_it_is_compared_at_whichever_n(scores):
    for n in (4, 10):
        (table,) = table1(scores, [], n)
        assert [row[:3] for row in plain(table)][2:] == [
            ["Editor (external)", "external", "7.00"], ["StyleCLIP (external)", "external", "90.00"],
        ]  # fmt: skip
        assert table.rows[2][2][0].bold  # the best is the best, whoever made it
        assert not any("standard deviation" in note or "No run" in note for note in table.notes)
    (table,) = table2(scores, [])
    assert [row[:2] for row in plain(table)][2:] == [
        ["10", "TUNIT"], ["10", "LANIT"], ["–", "Editor (external)"], ["–", "StyleCLIP (external)"],
    ]  # fmt: skip
    assert table.rules == {2, 4}
    (table,) = table1(scores, [], 13)
    assert "No run at N = 13: faces." in table.notes


def test_in_plots_it_is_a_level_over_n_and_a_row_at_one(scores, tmp_path):
    colour = int(CYCLE[2][1:], 16)  # the first that LANIT and TUNIT leave
    alone = [one for one in scores if not one.is_external]
    both = [one for one in scores if one.variant != "a_b"]
    drawn = []
    for group in (alone, both):
        for plot in (plot_mfid(group, []), plot_hit_rate(group)):
            pixels = np.asarray(Image.open(io.BytesIO(plot)).convert("RGB"), int) @ (65536, 256, 1)
            drawn.append((pixels == colour).sum())
    assert drawn[0] == drawn[1] == 0 and min(drawn[2:]) > 500

    def height(group):
        return Image.open(io.BytesIO(plot_mfid(group, []))).height

    at_ten = [one for one in alone if one.domains == 10]
    rows = [height([*at_ten, *(one for one in scores if one.is_external)][:count]) for count in (2, 3, 4)]
    assert rows[1] - rows[0] == rows[2] - rows[1] > 0


def test_it_has_its_place_in_the_report(tmp_path):
    nothing = {"latent_grid": np.empty((3, 0, 8, 8, 3), np.uint8), "domains": np.array([], "<U1")}
    arrays = pictures() | nothing
    folders = [write_run(tmp_path, score(), pictures()), write_run(tmp_path, external("Style <b>", mfid=9.0), arrays)]
    files = [[str(folder / name) for folder in folders] for name in ("scores.json", "pictures.npz")]
    output = tmp_path / "out"
    command = ["compare", "--options", "{}", "--scores", *files[0], "--pictures", *files[1], "--output"]
    assert main([*command, str(output)]) == 0
    names = {path.name for path in (output / "pictures").iterdir()}
    assert names == {f"faces-lanit-n10-seed0-{kind}.png" for kind in ("references", "latents")} | {
        "faces-overview.png", "faces-external-clip-references.png",
    }  # fmt: skip
    overview, one = (Image.open(output / "pictures" / name) for name in ("faces-overview.png", sorted(names)[0]))
    assert overview.width > 1.5 * one.width  # both stand in it
    html = (output / "report.html").read_text()
    assert "<td>10</td><td>0</td>" in html and "Style &lt;b&gt; (external)</summary>" in html
    assert main(["compare", "--scores", files[0][1], "--output", str(tmp_path / "alone")]) == 0
    assert not (tmp_path / "alone" / "plots").exists()  # there is no N to plot against
    assert "Style &lt;b> (external)" in (tmp_path / "alone" / "tables" / "comparison.md").read_text()


def test_a_record_that_lacks_what_marks_it_is_an_error(tmp_path, capsys):
    values = external()
    del values["external"]["of"]
    folder = write_run(tmp_path, values)
    assert main(["compare", "--scores", str(folder / "scores.json"), "--output", str(tmp_path / "out")]) == 2
    assert "scores.json is malformed (external lacks title, pairs or of)" in capsys.readouterr().err
    (folder / "scores.json").write_text(json.dumps({k: v for k, v in values.items() if k != "external"}))
    assert main(["compare", "--scores", str(folder / "scores.json"), "--output", str(tmp_path / "out")]) == 2
    assert "scores.json lacks 'external'" in capsys.readouterr().err
