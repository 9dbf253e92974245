"""`lanit track`: what a sweep left comes into MLflow, once, and the record says where it is."""

import json

from made_up_sweep import pictures, score, write_run

from lanit.cli import main
from lanit.tracking import read_store
from lanit.tracking.runs import find_runs
from lanit.tracking.store import open_client


def test_a_sweep_is_entered_as_it_lies_there(tmp_path):
    runs = [write_run(tmp_path, score(seed=seed), pictures()) for seed in (0, 1)]
    scores = [str(run / "scores.json") for run in runs]
    grids = [str(run / "pictures.npz") for run in runs]
    assert main(["compare", "--scores", *scores, "--pictures", *grids, "--output", str(tmp_path)]) == 0
    options = json.dumps({"uri": f"sqlite:///{tmp_path}/mlflow.db", "sweep": "demo"})
    command = ["--runs", *map(str, runs), "--comparison", str(tmp_path)]
    record = tmp_path / "mlflow.json"
    assert main(["track", "--options", options, *command, "--output", str(record)]) == 0

    store = read_store(record)
    client = open_client(store.uri)
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name == "faces")
    (parent,) = find_runs(client, experiment, {"lanit.sweep": "demo"})
    assert parent.info.status == "FINISHED"
    children = find_runs(client, experiment, {"mlflow.parentRunId": parent.info.run_id})
    assert sorted(run.info.run_name for run in children) == ["lanit-n10-seed0", "lanit-n10-seed1"]
    assert all(run.data.metrics["mfid"] == 20.0 and run.info.status == "FINISHED" for run in children)
    assert all(len(client.list_artifacts(run.info.run_id, "pictures")) == 2 for run in children)
    top = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "tables", "plots", "pictures"} <= top

    # Again, by the record: nothing that is there is sent again.
    database = (tmp_path / "mlflow.db").read_bytes()
    assert main(["track", "--options", str(record), *command]) == 0
    assert len(find_runs(client, experiment, {"mlflow.parentRunId": parent.info.run_id})) == 2
    assert client.get_metric_history(children[0].info.run_id, "mfid")[1:] == []
    assert (tmp_path / "mlflow.db").stat().st_size == len(database)


def test_tables_without_scores_are_a_mistake(tmp_path, capsys):
    options = json.dumps({"uri": f"sqlite:///{tmp_path}/mlflow.db", "sweep": "demo"})
    assert main(["track", "--options", options, "--comparison", str(tmp_path)]) == 2
    assert "none of --runs has a scores.json" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()
