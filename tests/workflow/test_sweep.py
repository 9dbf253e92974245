"""The smoke sweep, run for real: every stage, both methods, and what happens when it is started again."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "workflow" / "configs" / "smoke.yaml"


def test_it_leaves_tables_plots_pictures_and_a_report(smoke):
    folder, _, first = smoke
    results = folder / "results-smoke"
    for name in ("tables/comparison.csv", "tables/table1.tex", "tables/labels.md", "report.html", "mlflow.db"):
        assert (results / name).stat().st_size > 0, name
    assert list((results / "plots").glob("*.png")) and list((results / "pictures").glob("*.png"))
    lines = (results / "tables" / "comparison.csv").read_text().splitlines()
    assert len(lines) == 1 + 4  # two methods at two N
    assert "results-smoke/report.html" in first.stdout and "mlflow ui" in first.stdout


def test_every_run_was_scored_under_one_protocol(smoke):
    folder, _, _ = smoke
    paths = (folder / "results-smoke").glob("faces/*/seed0/scores.json")
    scores = [json.loads(path.read_text()) for path in paths]
    settings = [(score["method"], score["domains"]) for score in scores]
    assert sorted(settings) == [("lanit", 4), ("lanit", 7), ("tunit", 4), ("tunit", 7)]
    assert len({json.dumps(score["protocol"]) for score in scores}) == 1
    assert {score["images_seen"] for score in scores} == {160}


def test_every_run_is_in_mlflow_below_its_sweep(smoke):
    folder, _, _ = smoke
    with sqlite3.connect(folder / "results-smoke" / "mlflow.db") as database:
        children = database.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
    assert children == 4


def test_started_again_it_has_nothing_to_do_and_says_so_soon(smoke):
    _, run, _ = smoke
    started = time.monotonic()
    again = run("--cores", "2", overlays=[SMOKE])
    assert again.returncode == 0 and "Nothing to be done" in again.stdout
    assert time.monotonic() - started < 15


def test_a_changed_option_of_a_method_reruns_what_depends_on_it_alone(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"train": {"tunit": {"settings": {"warmup": 0.4}}}})
    assert jobs == {"train": 2, "translate": 2, "score": 2, "compare": 1, "all": 1}


def test_a_changed_protocol_trains_nothing(smoke):
    _, run, _ = smoke
    assert planned(run, {"evaluate": {"seed": 1}}) == {"translate": 4, "score": 4, "compare": 1, "all": 1}


def test_another_split_to_score_on_trains_nothing_and_labels_nothing(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"evaluate": {"split": "val"}})
    assert jobs == {"extract_features": 1, "translate": 4, "score": 4, "compare": 1, "all": 1}


def test_one_n_more_reuses_shards_and_embeddings(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"domains": [4, 7, 10]})
    assert jobs == {"label": 4, "train": 2, "relabel": 1, "translate": 2, "score": 2, "compare": 1, "all": 1}


def planned(run, overlay: dict) -> dict[str, int]:
    """Rule → number of jobs that a dry run plans with one more overlay."""
    result = run("--dry-run", "--quiet", "rules", overlays=[SMOKE, overlay])
    assert result.returncode == 0, result.stdout
    jobs = {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", result.stdout, flags=re.MULTILINE)}
    jobs.pop("total")
    return jobs
