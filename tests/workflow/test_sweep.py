"""The smoke sweep, run for real: every stage, both methods, and what happens when it is started again."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

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


def test_one_start_makes_all_that_a_sweep_of_another_name_or_address_lacks(smoke):
    """However new the store is to Snakemake, what it hides is nothing, and what is trained stays trained."""
    _, run, _ = smoke
    new_seed = {"train": 4, "translate": 4, "score": 4, "relabel": 2, "compare": 1, "track": 1, "all": 1}
    for change in ({"sweep": "second"}, {"tracking": {"uri": "sqlite:///results-smoke/second.db"}}):
        assert planned(run, change) == {"compare": 1, "track": 1, "all": 1}
        assert planned(run, change | {"seeds": [0, 1]}) == new_seed


def test_one_start_makes_all_of_a_dataset_that_is_added(smoke):
    _, run, _ = smoke
    faces = yaml.safe_load((ROOT / "config.yaml").read_text())["dataset"]["faces"]
    added = {"datasets": ["faces", "more"], "dataset": {"more": faces}}
    jobs = planned(run, added)
    assert (jobs["plan_shards"], jobs["train"], jobs["score"], jobs["label"]) == (1, 4, 4, 8)
    assert (jobs["compare"], jobs["track"], jobs["write_shard"], jobs["train_clip"]) == (1, 1, 5, 0)


def test_without_its_record_a_store_is_filled_up_and_nothing_trains_again(smoke, tmp_path):
    folder, _, _ = smoke
    with taken_away(folder / "results-smoke" / "mlflow.json", tmp_path):
        assert planned(smoke[1], {}) == {"track": 1, "all": 1}
        new_seed = {"train": 4, "translate": 4, "score": 4, "relabel": 2, "compare": 1, "track": 1, "all": 1}
        assert planned(smoke[1], {"seeds": [0, 1]}) == new_seed


def test_a_database_that_is_gone_is_made_anew(smoke, tmp_path):
    folder, run, _ = smoke
    with taken_away(folder / "results-smoke" / "mlflow.db", tmp_path):
        assert planned(run, {}) == {"track": 1, "all": 1}


@pytest.mark.parametrize(
    "name, jobs",
    [
        ("model.safetensors", {"train": 1, "translate": 1, "score": 1, "compare": 1, "track": 1, "all": 1}),
        ("metrics.jsonl", {"train": 1, "translate": 1, "score": 1, "compare": 1, "track": 1, "all": 1}),
        ("run.json", {"train": 1, "translate": 1, "score": 1, "compare": 1, "track": 1, "all": 1}),
        ("scores.json", {"score": 1, "compare": 1, "track": 1, "all": 1}),
        ("pictures.npz", {"translate": 1, "score": 1, "compare": 1, "track": 1, "all": 1}),
    ],
)
def test_what_tables_rest_on_is_made_again_where_it_was_lost(smoke, tmp_path, name, jobs):
    folder, run, _ = smoke
    with taken_away(folder / "results-smoke" / "faces" / "tunit-n4" / "seed0" / name, tmp_path):
        assert planned(run, {}) == jobs


def test_where_the_tables_are_is_said_of_a_whole_sweep_alone(smoke):
    """Not after a part of one, though there are tables from before."""
    _, run, first = smoke
    assert "results-smoke/tables/comparison.md" in first.stdout and "Not the whole sweep" not in first.stdout
    change = {"labellers": {"top2": {"kind": "top_k", "k": 2}}}
    part = run("--cores", "1", "results-smoke/faces/labels/top2-n4/quality.json", overlays=[SMOKE, change])
    assert part.returncode == 0 and "results-smoke/tables/comparison.md" not in part.stdout
    missing = "results-smoke/faces/labels/top2-n7/quality.json"
    assert re.search(rf"^Not the whole sweep: 1 of its \d+ files are not there, such as {missing}", part.stdout, re.M)


def test_a_changed_option_of_a_method_reruns_what_depends_on_it_alone(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"train": {"tunit": {"settings": {"warmup": 0.4}}}})
    assert jobs == {"train": 2, "translate": 2, "score": 2, "compare": 1, "track": 1, "all": 1}


def test_a_changed_protocol_trains_nothing(smoke):
    _, run, _ = smoke
    assert planned(run, {"evaluate": {"seed": 1}}) == {"translate": 4, "score": 4, "compare": 1, "track": 1, "all": 1}


def test_another_split_to_score_on_trains_nothing_and_labels_nothing(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"evaluate": {"split": "val"}})
    assert jobs == {"extract_features": 1, "translate": 4, "score": 4, "compare": 1, "all": 1}


def test_one_n_more_reuses_shards_and_embeddings(smoke):
    _, run, _ = smoke
    jobs = planned(run, {"domains": [4, 7, 10]})
    new = {"label": 4, "train": 2, "relabel": 1, "translate": 2, "score": 2}
    assert jobs == new | {"compare": 1, "track": 1, "all": 1}


def planned(run, overlay: dict) -> collections.Counter[str]:
    """Rule → number of jobs that a dry run plans with one more overlay."""
    result = run("--dry-run", "--quiet", "rules", overlays=[SMOKE, overlay])
    assert result.returncode == 0, result.stdout
    jobs: collections.Counter[str] = collections.Counter()
    for rule, number in set(re.findall(r"^(\w+) +(\d+)$", result.stdout, flags=re.MULTILINE)):
        if rule != "total":
            jobs[rule] += int(number)
    return jobs


@contextlib.contextmanager
def taken_away(path: Path, folder: Path) -> Iterator[None]:
    """Without a file of the sweep, which the other tests find again."""
    path.rename(folder / path.name)
    try:
        yield
    finally:
        (folder / path.name).rename(path)
