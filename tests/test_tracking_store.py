"""A store is opened by its address: made by whoever comes first, mended where broken, filled up where it lacks."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from lanit.cli import main
from lanit.config import LanitError, digest
from lanit.tracking import TrackOptions, TrainingRun, log_scores, make_store, read_store
from lanit.tracking.runs import find_runs
from lanit.tracking.store import open_client, write_store

TRAINING = """
import sys
from pathlib import Path
from lanit.tracking import TrainingRun
run = TrainingRun.open(sys.argv[1], "faces", "lanit", 4, int(sys.argv[2]), {}, "abc", Path("."), interval=0.05)
run.log(1, 8, {"loss": 1.0})
sys.exit(not run.finish(limit=100))
"""

MAKING = """
import sys
from pathlib import Path
import mlflow
from lanit.tracking import TrackOptions, make_store
print("ready", flush=True)
make_store(TrackOptions("sqlite:///mlflow.db", "demo", ["faces"]), Path("mlflow.json"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with an empty store, `mlflow.db`: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    make_store(TrackOptions(f"sqlite:///{folder}/mlflow.db", "first", ["faces"]))
    return folder


@pytest.fixture
def track(made, request) -> str:
    """What `--track` is given: the store, and a sweep of the test's own."""
    return json.dumps({"uri": f"sqlite:///{made}/mlflow.db", "sweep": request.node.name})


def runs_of(track: str, dataset: str = "faces") -> dict:
    """Name → run of all trainings that the sweep has."""
    store = read_store(track)
    client = open_client(store.uri)
    experiment = client.get_experiment_by_name(dataset).experiment_id
    (parent,) = find_runs(client, experiment, {"lanit.sweep": store.sweep})
    children = find_runs(client, experiment, {"mlflow.parentRunId": parent.info.run_id})
    return {run.info.run_name: run for run in [parent, *children]}


def write_training(folder: Path, steps: int = 5, dataset: str = "faces") -> Path:
    """What a finished training and its scoring leave; the log, `run.json`, a sample and scores."""
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "00000040.png").write_bytes(b"png")
    lines = [
        {"step": step, "images": 8 * step, "seconds": 0.5 * step, "images_per_second": 16.3, "d/loss": 1 / step}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"images": 8 * steps, "batch": 8, "loss": {"dl": 0.5}}
    record = {"dataset": dataset, "method": "lanit", "domains": ["hat"] * 4, "seed": 0, "options": options}
    (folder / "run.json").write_text(json.dumps(record | {"code": "abc", "config": digest(options)}))
    (folder / "scores.json").write_text(json.dumps({"images_seen": 8 * steps, "mean": {"mfid": 20.5}}))
    return folder


def test_trainings_that_start_at_once_make_one_store(tmp_path):
    track = json.dumps({"uri": "sqlite:///results/mlflow.db", "sweep": "demo"})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    jobs = [
        subprocess.Popen([sys.executable, "-c", TRAINING, track, str(seed)], cwd=tmp_path, env=environment)
        for seed in range(4)
    ]
    assert [job.wait(timeout=200) for job in jobs] == [0] * 4
    runs = runs_of(json.dumps({"uri": f"sqlite:///{tmp_path}/results/mlflow.db", "sweep": "demo"}))
    assert sorted(runs) == ["demo", *(f"lanit-n4-seed{seed}" for seed in range(4))]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_store_whose_making_was_killed_is_made_by_the_next(tmp_path):
    """Killed as the first table is there, amid the migrations, and at the end."""
    database, part = tmp_path / "mlflow.db", tmp_path / ".mlflow.db.part"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for size in (0, 2e5, 3e5, 4e5, 6e5, 9e5):
        maker = subprocess.Popen(
            [sys.executable, "-c", MAKING], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert maker.stdout.readline() == "ready\n"
        began = time.time()  # what the one before left is older
        while not any(grew(path, size, began) for path in (part, database)) and maker.poll() is None:
            time.sleep(0.001)
        maker.kill()
        maker.wait()
        maker.stdout.close()
    store = make_store(TrackOptions(f"sqlite:///{database}", "demo", ["faces"]), tmp_path / "mlflow.json")
    assert [experiment.name for experiment in open_client(store.uri).search_experiments()] == ["faces", "Default"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db", "mlflow.json"]


def grew(path: Path, size: float, since: float) -> bool:
    """Is a file above a size, and of after a time?"""
    try:
        return path.stat().st_mtime > since and path.stat().st_size > size
    except FileNotFoundError:
        return False


def test_a_database_that_was_left_half_made_is_named(made, tmp_path):
    """As MLflow itself leaves one where it is killed: the words of its library tell nobody what to do."""
    shutil.copy(made / "mlflow.db", tmp_path)
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    for command in ("delete from alembic_version", "drop table webhooks", "delete from runs"):
        database.execute(command)
    database.close()
    with pytest.raises(LanitError, match="mlflow.db was left half made by a start that was killed.* remove it"):
        make_store(TrackOptions(f"sqlite:///{tmp_path}/mlflow.db", "demo", ["faces"]))


def test_what_a_store_lacks_of_a_training_is_entered_from_its_files(track, tmp_path, capsys):
    run = write_training(tmp_path / "run")
    for _ in range(2):
        assert main(["track", "--options", track, "--runs", str(run)]) == 0
    said = capsys.readouterr().out
    assert (
        said.count(": entered") == 1 and ": entered 15 points and 1 pictures" in said
    )  # the second time nothing lacks
    runs = runs_of(track)
    child = runs["lanit-n4-seed0"]
    assert child.info.status == "FINISHED" and child.data.params["loss.dl"] == "0.5"
    assert child.data.metrics["mfid"] == 20.5 and child.data.tags["mlflow.source.git.commit"] == "abc"
    client = open_client(read_store(track).uri)
    history = client.get_metric_history(child.info.run_id, "d/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 6)]
    ended = (run / "run.json").stat().st_mtime
    assert history[0].timestamp == pytest.approx(1000 * (ended - 2.0), abs=1) and child.info.end_time < 1000 * ended + 1
    assert [artifact.path for artifact in client.list_artifacts(child.info.run_id, "samples")] == [
        "samples/00000040.png"
    ]


def test_only_what_is_missing_of_a_training_is_entered(track, tmp_path, capsys):
    folder = write_training(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    config = record["options"] | {"digest": record["config"]}
    run = TrainingRun.open(track, "faces", "lanit", 4, 0, config, "abc", folder, interval=0.05)
    for step in (1, 2):
        run.log(step, 8 * step, {"d/loss": 1 / step, "images_per_second": 16.3})
    assert run.finish("KILLED")
    assert main(["track", "--options", track, "--runs", str(folder)]) == 0
    assert "entered 9 points and 1 pictures" in capsys.readouterr().out
    runs = runs_of(track)
    assert len(runs) == 2 and runs["lanit-n4-seed0"].info.status == "FINISHED"
    history = open_client(read_store(track).uri).get_metric_history(runs["lanit-n4-seed0"].info.run_id, "images")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5]


def test_the_log_of_another_training_is_not_entered(track, tmp_path, capsys):
    """One that began anew over a finished one: its log is of options that `run.json` does not hold."""
    run = write_training(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert main(["track", "--options", track, "--runs", str(run)]) == 2
    assert "is of another training than run.json (at 16 of 40 images)" in capsys.readouterr().err


def test_a_store_that_is_locked_past_the_end_of_a_training_gets_it_later(track, made, tmp_path, capfd):
    """A person who has opened the database for writing; what to do stands in the log, ready to be copied."""
    folder = write_training(tmp_path / "a run")
    record = json.loads((folder / "run.json").read_text())
    config = record["options"] | {"digest": record["config"]}
    holder = sqlite3.connect(made / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        run = TrainingRun.open(track, "faces", "lanit", 4, 0, config, "abc", folder, interval=0.05)
        for step in range(1, 6):
            run.log(step, 8 * step, {"d/loss": 1 / step, "images_per_second": 16.3})
        assert not run.finish(limit=2.0)
    finally:
        holder.rollback()
        holder.close()
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("warning: MLflow: 15 points of this training are not in the store") for line in lines)
    command = lines[-1].strip()
    run._thread.join(60)  # in a training its process would have ended here
    done = subprocess.run(
        f"{sys.executable} -m {command}", shell=True, capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    client = open_client(read_store(track).uri)
    child = runs_of(track)["lanit-n4-seed0"]
    assert [p.step for p in client.get_metric_history(child.info.run_id, "d/loss")] == [1, 2, 3, 4, 5]


def test_a_score_is_logged_though_its_experiment_was_deleted(track, tmp_path):
    """By somebody who tidied up in MLflow's interface; so were the sweep's run, and a training's."""
    run = write_training(tmp_path / "run")
    scores = {"images_seen": 40, "mean": {"mfid": 7.0}}
    client = open_client(read_store(track).uri)
    log_scores(track, run, {"mean": {"mfid": 9.0}})
    first = runs_of(track)
    experiment = client.get_experiment_by_name("faces").experiment_id
    client.delete_experiment(experiment)
    log_scores(track, run, scores)
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    for deleted in first.values():
        client.delete_run(deleted.info.run_id)
    log_scores(track, run, scores)
    again = runs_of(track)
    assert {name: found.info.run_id for name, found in again.items()} == {
        name: found.info.run_id for name, found in first.items()
    }
    assert again["lanit-n4-seed0"].data.metrics["mfid"] == 7.0


def test_a_training_goes_on_logging_after_its_experiment_was_deleted(track, tmp_path):
    run = TrainingRun.open(track, "faces", "lanit", 4, 0, {}, "abc", tmp_path, interval=0.05)
    run.log(1, 8, {"loss": 1.0})
    while run.run_id is None or run._points or run._queue.qsize():
        time.sleep(0.02)
    client = open_client(read_store(track).uri)
    client.delete_experiment(client.get_experiment_by_name("faces").experiment_id)
    run.log(2, 16, {"loss": 0.5})
    while not run._warned:
        time.sleep(0.02)
    assert run.finish()
    history = client.get_metric_history(runs_of(track)["lanit-n4-seed0"].info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 0.5)]


class Gate(http.server.BaseHTTPRequestHandler):
    """A server that lets nobody in, and remembers who wanted to."""

    seen: ClassVar[list[str | None]] = []

    def do_GET(self):
        self.seen.append(self.headers["Authorization"])
        self.send_error(403)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def gate(monkeypatch) -> str:
    """The address of a server, with a name and a password in it."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # what is put there is taken away afterwards
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://runner:hunter%232@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_password_opens_the_server_and_stands_nowhere(gate, tmp_path, capfd):
    """Not in what is printed, in the report, in a run's folder or in the record; MLflow is told it all the same."""
    Gate.seen.clear()
    folder = write_training(tmp_path / "run")
    track = tmp_path / "store.json"
    track.write_text(json.dumps({"uri": gate, "sweep": "demo", "experiments": {}, "parents": {}}))
    run = TrainingRun.open(track, "faces", "lanit", 4, 0, {}, "abc", folder, interval=0.05)
    run.log(1, 8, {"loss": 1.0})
    assert not run.finish(limit=20)
    assert Gate.seen and {base64.b64decode(sent.removeprefix("Basic ")) for sent in Gate.seen} == {b"runner:hunter#2"}
    assert main(["track", "--options", json.dumps({"uri": gate, "sweep": "demo"}), "--runs", str(folder)]) == 2
    assert main(["track", "--options", json.dumps({"uri": gate.replace("http", "ftp"), "sweep": "demo"})]) == 2
    write_store(read_store(track), tmp_path / "mlflow.json")
    said = capfd.readouterr()
    assert "403" in said.err and "http://127.0.0.1" in said.err
    written = "".join(
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file() and path != track
    )
    assert "http://127.0.0.1" in written
    assert not re.search("hunter|runner", said.out + said.err + written)


def enter(*arguments: str) -> None:
    """Call the command in a process of its own: MLflow remembers where a run's artifacts were."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-m", "lanit", *arguments], env=environment, check=True, timeout=200)


def test_a_project_that_is_moved_or_copied_keeps_to_itself(made, tmp_path, monkeypatch):
    """Its record names no place on the disk, its artifacts follow it, and a copy leaves the original alone."""
    monkeypatch.chdir(tmp_path)
    first = Path("first é #1 50%")
    (first / "results").mkdir(parents=True)
    monkeypatch.chdir(first)
    shutil.copy(made / "mlflow.db", "results")
    run = write_training(Path("results/run"))
    uri = "sqlite:///results/mlflow.db"
    command = ["track", "--options", json.dumps({"uri": uri, "sweep": "demo"}), "--runs", str(run)]
    assert main([*command, "--output", "results/mlflow.json"]) == 0
    text = Path("results/mlflow.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["uri"] == uri

    monkeypatch.chdir(tmp_path)
    shutil.copytree(first, "copy")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    picture = Path("copy/results/run/samples/new.png")
    picture.write_bytes(b"new")
    enter("track", "--options", "copy/results/mlflow.json", "--runs", "copy/results/run")  # from elsewhere
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    (found,) = Path("copy").rglob("artifacts/samples/new.png")
    assert found.is_relative_to("copy/results/mlflow-artifacts/faces")

    first.rename("second")
    picture = Path("second/results/run/samples/newer.png")
    picture.write_bytes(b"newer")
    monkeypatch.chdir("second")
    enter(*command)
    assert not (tmp_path / first).exists()
    assert len(list(Path("results/mlflow-artifacts").rglob("newer.png"))) == 1
    child = runs_of("results/mlflow.json")["lanit-n4-seed0"]
    client = open_client(read_store("results/mlflow.json").uri)
    assert {Path(a.path).name for a in client.list_artifacts(child.info.run_id, "samples")} == {
        "00000040.png",
        "newer.png",
    }


def test_a_name_of_the_same_folder_moves_nothing(made, tmp_path):
    """A folder that has two names, by a link or on two nodes, does not change its artifacts' place at every turn."""
    (tmp_path / "real").mkdir()
    shutil.copy(made / "mlflow.db", tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    places = []
    for name in ("real", "link", "real"):
        store = make_store(TrackOptions(f"sqlite:///{tmp_path}/{name}/mlflow.db", "demo", ["faces"]))
        places.append(open_client(store.uri).get_experiment_by_name("faces").artifact_location)
    assert places == [(tmp_path / "real" / "mlflow-artifacts" / "faces").as_uri()] * 3


def test_an_address_that_a_database_cannot_have_is_a_sentence(tmp_path):
    with pytest.raises(LanitError, match="holds a question mark"):
        make_store(TrackOptions(f"sqlite:///{tmp_path}/what?/mlflow.db", "demo", ["faces"]))
    assert not list(tmp_path.iterdir())
