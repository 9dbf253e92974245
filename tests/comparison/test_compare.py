"""`lanit compare` from files to files: all that a reader looks at, in one command."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_sweep import pictures, score, write_ablation, write_quality, write_run, write_sweep
from PIL import Image

from lanit.cli import main
from lanit.comparison.inputs import read_metrics, read_published, read_qualities, read_scores
from lanit.comparison.plots import _push_apart, plot_density_coverage, plot_hit_rate, plot_labels, plot_mfid


def arguments(root, **options):
    found = {name: sorted(str(path) for path in root.glob(pattern)) for name, pattern in (
        ("scores", "*/*/*/scores.json"), ("quality", "**/labels/**/quality.json"),
        ("pictures", "*/*/*/pictures.npz"), ("metrics", "*/*/*/metrics.jsonl"),
        ("prompts", "*/*/*/prompts.json"))}  # fmt: skip
    lists = [part for name, paths in found.items() for part in (f"--{name}", *paths)]
    return ["compare", "--options", json.dumps(options), "--output", str(root), *lists]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    write_sweep(root, counts=(4, 10), seeds=(0,))
    assert main(arguments(root, sweep="<demo>")) == 0
    return root


def test_every_file_of_the_contract_is_made(results):
    assert {path.name for path in (results / "tables").iterdir()} == {
        "comparison.csv", "comparison.md", "comparison.tex", "table1.md", "table1.tex", "table2.md", "table2.tex",
        "labels.csv", "labels.md",
    }  # fmt: skip
    assert {path.name for path in (results / "plots").iterdir()} == {
        "faces-mfid.png", "faces-density-coverage.png", "faces-hit-rate.png", "faces-labels.png",
        "faces-lanit-losses.png", "faces-tunit-losses.png",
    }  # fmt: skip
    assert {path.name for path in (results / "pictures").iterdir()} == {"faces-overview.png"} | {
        f"faces-{method}-n{n}-seed0-{kind}.png"
        for method in ("lanit", "tunit") for n in (4, 10) for kind in ("references", "latents")
    }  # fmt: skip
    for path in [*(results / "plots").iterdir(), *(results / "pictures").iterdir()]:
        Image.open(path).verify()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_report_is_one_file_that_loads_nothing(results):
    html = (results / "report.html").read_text()
    tags = Tags()
    tags.feed(html)
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "iframe", "object", "embed"}
    images = [attributes["src"] for tag, attributes in tags.found if tag == "img"]
    assert len(images) == 6 + 1 + 8 and all(source.startswith("data:image/") for source in images)
    assert all(a["href"].startswith("#") for tag, a in tags.found if tag == "a")
    assert not re.search(r"url\(|@import|https?://", re.sub(r'src="data:[^"]*"', "", html))
    assert "<demo>" not in html and "&lt;demo&gt;" in html


def test_the_report_names_what_was_run(results):
    html = (results / "report.html").read_text()
    for words in ("LANIT", "TUNIT", "reference", "judge", "0123456789abcdef", "64,000", "Comparison at N = 10"):
        assert words in html


def test_made_again_the_files_are_the_same(results):
    files = [path for folder in ("tables", "plots", "pictures") for path in (results / folder).iterdir()]
    files.append(results / "report.html")
    before = {path: path.read_bytes() for path in files}
    assert main(arguments(results, sweep="<demo>")) == 0
    assert {path: path.read_bytes() for path in files} == before


def test_variants_have_plots_pictures_and_a_place_in_the_report_of_their_own(tmp_path):
    write_ablation(tmp_path, variants=("lanit", "lanit_learned", "lanit_no_dl"), seeds=(0, 1))
    assert main(arguments(tmp_path)) == 0
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    variants = ("lanit", "lanit_learned", "lanit_no_dl")
    assert plots >= {f"faces-{variant}-losses.png" for variant in variants}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"faces-overview.png"} | {
        f"faces-{variant}-n10-seed{seed}-{kind}.png"
        for variant in variants for seed in (0, 1) for kind in ("references", "latents")
    }  # fmt: skip
    overview = Image.open(tmp_path / "pictures" / "faces-overview.png")
    one = Image.open(tmp_path / "pictures" / "faces-lanit-n10-seed0-references.png")
    assert overview.height > 2 * one.height  # three blocks, two a row
    html = (tmp_path / "report.html").read_text()
    assert "LANIT: no dl, N = 10, seed 1" in html and "Variants on faces at N = 10" in html
    assert "mFID at N = 10" in html and "Comparison by number of candidate domains" not in html
    assert (tmp_path / "tables/comparison.md").read_text().startswith("## Variants on faces at N = 10")


def test_the_report_tells_what_prompts_have_learned(tmp_path):
    write_ablation(tmp_path, variants=("lanit", "lanit_learned"), seeds=(0,))
    assert main(arguments(tmp_path)) == 0
    html = (tmp_path / "report.html").read_text()
    told = html[html.index("<h3>Learned prompts</h3>") : html.index("<h3>Training</h3>")]
    assert told.count("<summary>") == 1 and "<summary>LANIT: learned, N = 10, seed 0</summary>" in told
    text = " ".join(re.sub(r"<[^>]*>", " ", told).split())
    assert "a photo of {}. a 12.5% photo (0.95), &lt;b&gt; (0.40), ë (0.20) photo 12.5%" in text
    assert "hat 25.0% 30.0% 7.0%" in text and "no domain 4.0% 2.0%" in text and "1.23% changed" in text


def test_prompts_that_cannot_be_read_are_named(tmp_path, capsys):
    write_ablation(tmp_path, variants=("lanit", "lanit_learned"), seeds=(0,))
    (path,) = tmp_path.glob("*/*/*/prompts.json")
    path.write_text(json.dumps({"templates": []}))
    assert main(arguments(tmp_path)) == 2
    assert f"{path} is malformed" in capsys.readouterr().err


def test_table_1_is_at_ten_domains_or_the_largest(tmp_path):
    for n in (4, 7):
        write_run(tmp_path, score(domains=n))
    assert main(arguments(tmp_path)) == 0
    assert "Comparison at N = 7" in (tmp_path / "tables/table1.md").read_text()
    assert main(arguments(tmp_path, domains=4)) == 0
    assert "Comparison at N = 4" in (tmp_path / "tables/table1.md").read_text()
    assert (tmp_path / "tables/labels.md").read_text().startswith("No label quality")


def test_it_ends_by_saying_where_things_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(Path("results"), score(), pictures())
    store = {"uri": f"sqlite:///{tmp_path}/results/mlflow.db", "sweep": "s", "experiments": {}, "parents": {}}
    Path("results/store.json").write_text(json.dumps(store))
    Path("results/mlflow.db").mkdir()
    assert main([*arguments(Path("results")), "--track", "results/store.json"]) == 0
    printed = capsys.readouterr()
    for words in ("results/tables/", "results/plots/", "results/pictures/", "results/report.html"):
        assert words in printed.out
    command = "mlflow ui --backend-store-uri sqlite:///results/mlflow.db --host 127.0.0.1"
    assert command in printed.out and command in Path("results/report.html").read_text()
    (line,) = printed.err.splitlines()  # no database can be there: the tables stand all the same
    assert line.startswith("warning: the results are not in MLflow") and "lanit track" in line


def test_results_reach_mlflow(tmp_path):
    from lanit.tracking import TrackOptions, make_store
    from lanit.tracking.runs import find_runs
    from lanit.tracking.store import open_client

    write_run(tmp_path, score(mfid=12.5), pictures())
    write_run(tmp_path, score(variant="lanit_b"))
    store = make_store(TrackOptions(f"sqlite:///{tmp_path}/mlflow.db", "demo", ["faces"]), tmp_path / "store.json")
    assert main([*arguments(tmp_path), "--track", str(tmp_path / "store.json")]) == 0
    client = open_client(store.uri)
    found = find_runs(client, store.experiments["faces"], {"mlflow.parentRunId": store.parents["faces"]})
    child, _ = sorted(found, key=lambda run: run.info.run_name)
    assert {run.info.run_name for run in found} == {"lanit-n10-seed0", "lanit_b-n10-seed0"}
    assert child.data.metrics["mfid"] == 12.5 and child.data.metrics["fid/hat"] == 12.5
    assert [a.path for a in client.list_artifacts(child.info.run_id, "pictures")] == [
        "pictures/faces-lanit-n10-seed0-latents.png", "pictures/faces-lanit-n10-seed0-references.png",
    ]  # fmt: skip
    top = {artifact.path for artifact in client.list_artifacts(store.parents["faces"])}
    assert {"report.html", "tables", "plots", "pictures"} <= top


def test_mistakes_are_told_before_anything_is_written(tmp_path, capsys):
    folder = write_run(tmp_path, score(), pictures())
    stray = tmp_path / "stray.npz"
    (folder / "pictures.npz").rename(stray)
    command = ["compare", "--output", str(tmp_path / "out"), "--scores", str(folder / "scores.json")]
    assert main([*command, "--pictures", str(stray)]) == 2
    assert "stray.npz has none of the given scores.json beside it" in capsys.readouterr().err
    (folder / "scores.json").write_text("{")
    assert main(command) == 2
    assert str(folder / "scores.json") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_plots_show_one_colour_a_method_and_the_papers_curves(tmp_path):
    runs = [(method, n, mfid) for method, mfid in (("lanit", 20), ("tunit", 90)) for n in (4, 10)]
    values = [score("celeba_hq", method, n, mfid=mfid) for method, n, mfid in runs]
    group = read_scores([write_run(tmp_path, value) / "scores.json" for value in values])
    with_paper, alone = plot_mfid(group, read_published()), plot_mfid(group, [])
    colours = {name: int(code, 16) for name, code in (("lanit", "0072B2"), ("tunit", "D55E00"), ("stargan2", "009E73"))}
    counts = {}
    for key, png in (("paper", with_paper), ("alone", alone)):
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) @ (65536, 256, 1)
        counts[key] = {name: (pixels == code).sum() for name, code in colours.items()}
    assert counts["alone"]["lanit"] > 500 and counts["alone"]["tunit"] > 500 and counts["alone"]["stargan2"] == 0
    assert counts["paper"]["stargan2"] > 20  # its name at least


def test_at_one_n_a_plot_has_a_row_for_each_of_several(tmp_path):
    """And a line over N for each where there are several N."""
    runs = [score(variant=variant, domains=n) for variant in ("lanit", "a", "b", "c", "d") for n in (4, 10)]
    group = read_scores([write_run(tmp_path, run) / "scores.json" for run in runs])
    at_ten = [score for score in group if score.domains == 10]

    def height(png: bytes) -> int:
        return Image.open(io.BytesIO(png)).height

    rows = [height(plot_mfid(at_ten[:count], [])) for count in (2, 3, 5)]
    assert rows[2] - rows[1] == 2 * (rows[1] - rows[0]) > 0
    assert height(plot_mfid(at_ten[:1], [])) == height(plot_mfid(group, [])) > rows[2]
    assert height(plot_hit_rate(at_ten[:5])) == rows[2]  # the untranslated sources are a line across


def test_plots_that_nothing_is_known_for_are_left_out(tmp_path):
    values = score()
    values["mean"] |= {"hit_rate": None, "hit_rate_candidates": None}
    group = read_scores([write_run(tmp_path, values) / "scores.json"])
    assert plot_hit_rate(group) is None
    assert plot_labels(read_qualities([write_quality(tmp_path, "faces", "adaptive", 4, None)])) is None
    assert plot_density_coverage(group, []).startswith(b"\x89PNG")  # a single run, a single N


def test_labels_of_lines_keep_their_distance():
    places = _push_apart([0.1, 0.11, 0.12, 0.9], 0.05)
    assert places == pytest.approx([0.06, 0.11, 0.16, 0.9])
    assert _push_apart([0.1, 0.5], 0.05) == [0.1, 0.5]


def test_a_line_of_metrics_that_a_crash_cut_off_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "images": 8, "loss": 1.0}\n{"step": 2, "im')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "images": 8, "loss": 1.0}]
