"""MLflow: a store is made once by whoever comes first, a run is continued, and training never waits for any of it."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanit.config import LanitError, digest, parse
from lanit.tracking import TrackOptions, TrainingRun, log_scores, log_tables, make_store, read_store, ui_command
from lanit.tracking.results import score_metrics
from lanit.tracking.runs import find_runs, flatten, legal_name
from lanit.tracking.store import open_client

CONFIG = {"images": 1000, "loss": {"adversarial": 1.0}, "domains": ["hat", "red hair"], "note": "x" * 7000}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database with its schema: creating it takes seconds, so the tests of this file share one."""
    folder = tmp_path_factory.mktemp("mlflow")
    options = {"uri": f"sqlite:///{folder}/deep/mlflow.db", "sweep": "first", "datasets": ["faces"], "config": CONFIG}
    make_store(parse(TrackOptions, options), folder / "store.json")
    return folder / "store.json"


@pytest.fixture
def track(empty_store, request):
    """The path of a `store.json` with a sweep of the test's own."""
    uri = read_store(empty_store).uri
    output = empty_store.parent / request.node.name / "store.json"
    make_store(TrackOptions(uri, sweep=request.node.name, datasets=["faces", "pets"]), output)
    return output


def open_run(track, folder, **changes):
    values = {"dataset": "faces", "method": "lanit", "domains": 10, "seed": 0, "config": CONFIG, "code": "abc123"}
    return TrainingRun.open(track, run_folder=folder, interval=0.05, **(values | changes))


def children(track):
    store = read_store(track)
    client = open_client(store.uri)
    return client, find_runs(client, store.experiments["faces"], {"mlflow.parentRunId": store.parents["faces"]})


def test_the_store_is_made_once_and_found_again(track):
    before = track.read_text()
    store = read_store(track)
    again = make_store(TrackOptions(store.uri, sweep=store.sweep, datasets=["faces", "pets"]), track)
    assert track.read_text() == before
    client = open_client(store.uri)
    assert sorted(e.name for e in client.search_experiments() if e.name != "Default") == ["faces", "pets"]
    assert len(find_runs(client, again.experiments["faces"], {"lanit.sweep": store.sweep})) == 1
    location = client.get_experiment(store.experiments["faces"]).artifact_location
    assert location.startswith("file:///") and Path(location.removeprefix("file://")).is_absolute()


def test_another_sweep_shares_the_experiments_of_the_database(empty_store, track):
    first, second = read_store(empty_store), read_store(track)
    assert first.experiments["faces"] == second.experiments["faces"]
    assert first.parents["faces"] != second.parents["faces"]


def test_the_configuration_is_on_the_parent_and_may_change(empty_store):
    store = read_store(empty_store)
    options = TrackOptions(store.uri, "first", ["faces"], config={"images": 2000, "seeds": [0, 1]})
    make_store(options, empty_store)
    run = open_client(store.uri).get_run(store.parents["faces"])
    assert run.data.params["loss.adversarial"] == "1.0"
    assert run.data.params["images"] == "1000"  # MLflow keeps the first value …
    assert run.data.params["seeds"] == "[0, 1]"
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((artifacts / "config.json").read_text())["images"] == 2000  # … the file has the present one


def test_the_command_is_silent_about_migrations(tmp_path):
    options = json.dumps({"uri": "sqlite:///results/mlflow.db", "sweep": "demo", "datasets": ["faces"]})
    command = [sys.executable, "-m", "lanit", "track", "--options", options, "--output", "results/store.json"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "mlflow ui --backend-store-uri sqlite:///results/mlflow.db --host 127.0.0.1" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    left = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert left == [".mlflow.db.lock", "mlflow.db", "store.json"]


def test_a_run_carries_its_identity_configuration_and_losses(track, tmp_path):
    run = open_run(track, tmp_path)
    for step in range(700):
        run.log(step, step * 8, {"d/adversarial": 1 / (step + 1), "g total (x)": 2.0})
    (tmp_path / "000700.png").write_bytes(b"png")
    run.picture(tmp_path / "000700.png")
    assert run.finish()
    client, (child,) = children(track)
    assert child.info.run_name == "lanit-n10-seed0" and child.info.status == "FINISHED"
    assert child.data.tags["lanit.config"] == digest(CONFIG)
    assert child.data.tags["lanit.variant"] == child.data.params["variant"] == "lanit"  # the method itself
    assert child.data.tags["mlflow.source.git.commit"] == "abc123"
    assert child.data.params["domains"] == '["hat", "red hair"]'
    assert len(child.data.params["note"]) == 6000 and child.data.params["note"].endswith("…")
    history = client.get_metric_history(child.info.run_id, "d/adversarial")
    assert [(point.step, point.value) for point in history[:2]] == [(0, 1.0), (1, 0.5)] and len(history) == 700
    assert child.data.metrics["images"] == 699 * 8 and child.data.metrics["g total _x_"] == 2.0
    assert [artifact.path for artifact in client.list_artifacts(child.info.run_id, "samples")] == ["samples/000700.png"]


def test_a_run_started_again_continues_its_own_and_doubles_no_point(track, tmp_path):
    with pytest.raises(RuntimeError), open_run(track, tmp_path) as run:
        for step in range(20):
            run.log(step, step, {"loss": float(step)})
        raise RuntimeError
    client, (child,) = children(track)
    assert child.info.status == "FAILED"
    with open_run(track, tmp_path, code="def456") as run:
        for step in range(10, 30):  # the last checkpoint was of step 10
            run.log(step, step, {"loss": float(step)})
    client, (continued,) = children(track)
    assert continued.info.run_id == child.info.run_id and continued.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(child.info.run_id, "loss")] == list(range(30))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"domains": 4}, {"method": "tunit"}, {"config": {"images": 9}},
        {"config": CONFIG | {"digest": digest(CONFIG), "variant": "lanit_top1"}},
    ],
)  # fmt: skip
def test_another_seed_n_method_configuration_or_variant_is_another_run(track, tmp_path, change):
    assert open_run(track, tmp_path).finish()
    assert open_run(track, tmp_path, **change).finish()
    assert len(children(track)[1]) == 2


def test_a_variant_is_named_tagged_and_found_by_its_scores(track, tmp_path):
    options = CONFIG | {"variant": "lanit_top1"}
    assert open_run(track, tmp_path, config=options).finish()
    values = {"dataset": "faces", "method": "lanit", "variant": "lanit_top1", "domains": 10, "seed": 0}
    (tmp_path / "run.json").write_text(json.dumps(values | {"options": options, "code": "abc"}))
    log_scores(track, tmp_path, {"images_seen": 8, "mean": {"mfid": 20.5}})
    _client, (child,) = children(track)
    assert child.info.run_name == "lanit_top1-n10-seed0" and child.data.metrics["mfid"] == 20.5
    assert (child.data.tags["lanit.method"], child.data.tags["lanit.variant"]) == ("lanit", "lanit_top1")
    assert child.data.params["variant"] == "lanit_top1"


def test_training_goes_on_without_a_store(tmp_path, capfd):
    values = {"uri": "http://127.0.0.1:9", "sweep": "demo", "experiments": {"faces": "1"}, "parents": {"faces": "a"}}
    (tmp_path / "store.json").write_text(json.dumps(values))
    run = open_run(tmp_path / "store.json", tmp_path)
    start = time.monotonic()
    for step in range(1000):
        run.log(step, step, {"loss": 1.0})
    assert time.monotonic() - start < 1.0
    assert not run.finish(limit=20.0)
    assert time.monotonic() - start < 20.0
    first, last, command = capfd.readouterr().err.splitlines()
    assert first.startswith("warning: the MLflow store http://127.0.0.1:9 cannot be used")
    assert last.startswith("warning: MLflow: 2000 points of this training are not in the store http://127.0.0.1:9")
    program, *arguments = shlex.split(command)
    assert (program, arguments[0], arguments[-1]) == ("lanit", "track", str(tmp_path))


def test_a_store_that_comes_back_gets_every_point(track, tmp_path, capfd):
    folder = Path(read_store(track).uri.removeprefix("sqlite:///")).parent
    away = folder.rename(folder.with_suffix(".away"))
    folder.touch()  # nobody can make a database here
    try:
        run = open_run(track, tmp_path)
        run.log(1, 8, {"loss": 1.0})
        until = time.monotonic() + 20
        while not run._warned and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        folder.unlink()
        away.rename(folder)
    run.log(2, 16, {"loss": 0.5})
    assert run.finish()
    client, (child,) = children(track)
    assert [point.value for point in client.get_metric_history(child.info.run_id, "loss")] == [1.0, 0.5]
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_scores_and_pictures_reach_the_run_of_the_training(track, tmp_path):
    assert open_run(track, tmp_path, config=CONFIG | {"digest": digest(CONFIG)}).finish()
    values = {"dataset": "faces", "method": "lanit", "domains": ["hat"] * 10, "seed": 0, "code": "abc"}
    values["config"] = digest(CONFIG)
    (tmp_path / "run.json").write_text(json.dumps(values))
    (tmp_path / "grid.png").write_bytes(b"png")
    scores = {
        "images_seen": 8000,
        "mean": {"mfid": 20.5, "hit_rate": None},
        "per_class": {"red hair": {"fid": 30.0, "candidate": True}},
    }
    for _ in range(2):
        log_scores(track, tmp_path, scores, [tmp_path / "grid.png"])
    client, (child,) = children(track)
    assert child.data.metrics["mfid"] == 20.5 and child.data.metrics["fid/red hair"] == 30.0
    assert "hit_rate" not in child.data.metrics
    (point,) = client.get_metric_history(child.info.run_id, "mfid")
    assert point.step == 8000
    assert [artifact.path for artifact in client.list_artifacts(child.info.run_id, "pictures")] == ["pictures/grid.png"]


def test_tables_reach_the_parent_and_end_the_sweep(track, tmp_path):
    (tmp_path / "table1.md").write_text("|a|")
    log_tables(track, {"faces": [(tmp_path / "table1.md", "tables")]})
    store = read_store(track)
    client = open_client(store.uri)
    assert client.get_run(store.parents["faces"]).info.status == "FINISHED"
    assert client.list_artifacts(store.parents["faces"], "tables")[0].path == "tables/table1.md"


def test_names_become_legal():
    assert legal_name("fid/5 o'clock (shadow)") == "fid/5 o_clock _shadow_"
    assert legal_name("../x//y") == "x/y"
    assert flatten({"a": {"b": {"c": None}}, "d": {}}) == {"a.b.c": "null", "d": "{}"}
    assert score_metrics({"mean": {"mkid": float("nan")}, "per_class": {}, "clusters": None}) == {}
    assert score_metrics({"clusters": {"nmi": 0.5, "ari": None}}) == {"clusters/nmi": 0.5}


def test_mistakes_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(LanitError, match="lanit track"):
        read_store(tmp_path / "store.json")
    with pytest.raises(LanitError, match="not a database or a server"):
        make_store(TrackOptions("mlruns", "s", ["faces"]), tmp_path / "store.json")
    monkeypatch.chdir(tmp_path)
    assert ui_command(f"sqlite:///{tmp_path}/a b.db").endswith("'sqlite:///a b.db' --host 127.0.0.1")
