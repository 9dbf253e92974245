"""Systems that are not trained here: what they are asked to translate, and what becomes of what they give back."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import CLASSES, Identity, Perfect
from PIL import Image

from lanit.cli import main
from lanit.data.batches import ImageStore
from lanit.data.images import read_image
from lanit.data.manifest import read_manifest, read_truth
from lanit.evaluation.features import FeatureOptions, load_extractor
from lanit.files import read_tensors

PROTOCOL = {"pairs": 12}


@pytest.fixture(scope="module")
def asked(manifest, tmp_path_factory) -> Path:
    """What `lanit evaluate pairs` writes of the tests' faces."""
    folder = tmp_path_factory.mktemp("asked") / "pairs"
    options = json.dumps({"classes": CLASSES, "protocol": PROTOCOL, "picture_sources": 4})
    command = ["evaluate", "pairs", "--manifest", str(manifest), "--options", options]
    assert main([*command, "--output", str(folder)]) == 0
    return folder


def rows(asked, name="pairs.csv"):
    with open(asked / name) as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(asked, tmp_path) -> Path:
    """Translations by a system that gives back each reference itself."""
    folder = tmp_path / "translated"
    folder.mkdir()
    for row in rows(asked) + rows(asked, "pictures.csv"):
        shutil.copy(asked / "references" / f"{row['reference']}.png", folder / row["file"])
    return folder


@pytest.fixture
def external(manifest, judge, tmp_path):
    """Run `lanit evaluate external`; its exit code, and the run's folder."""

    def call(images, *arguments, **changes):
        run = tmp_path / "external" / changes.get("name", "copier")
        options = {
            "name": "copier", "title": "Copier 2.0", "dataset": "faces", "classes": CLASSES, "protocol": PROTOCOL,
            "picture_sources": 4, "features": {"kind": "judge", "weights": str(judge)},
        }  # fmt: skip
        code = main([
            "evaluate", "external", "--images", str(images), "--manifest", str(manifest), "--output", str(run),
            "--options", json.dumps(options | changes), *map(str, arguments),
        ])  # fmt: skip
        return code, run

    return call


def same_scores(found, expected):
    for values, others in [(found["mean"], expected["mean"])] + [
        (found["per_class"][name], expected["per_class"][name]) for name in CLASSES
    ]:
        assert values.keys() == others.keys()
        for key, value in values.items():
            assert value == (None if others[key] is None else pytest.approx(others[key], rel=1e-4, abs=1e-6)), key


def test_what_is_asked_for_are_the_protocols_pairs(asked, manifest):
    keys, truth = list(read_manifest(manifest, "test")["key"]), read_truth(manifest, "test").set_index("key")
    pairs = rows(asked)
    assert list(pairs[0]) == ["source", "target", "reference", "file"]
    for row in pairs:
        assert not truth.loc[row["source"], row["target"]] and truth.loc[row["reference"], row["target"]]
    assert len({tuple(row.values()) for row in pairs}) == len({row["file"] for row in pairs}) == len(pairs) <= 72
    assert {row["target"] for row in pairs} == set(CLASSES)
    assert pairs[-1]["file"] == f"{pairs[-1]['source']}__green_skin__{pairs[-1]['reference']}.png"
    store = ImageStore(manifest, "test")
    for kind in ("source", "reference"):
        files = list((asked / f"{kind}s").iterdir())
        assert {path.stem for path in files} == {row[kind] for row in pairs + rows(asked, "pictures.csv")}
        stored = store.read([keys.index(files[0].stem)])[0].permute(1, 2, 0)
        np.testing.assert_array_equal(np.asarray(Image.open(files[0])), stored)


def test_a_folder_that_is_there_is_not_written_into(asked, manifest, capsys):
    options = json.dumps({"classes": CLASSES})
    command = ["evaluate", "pairs", "--manifest", str(manifest), "--options", options, "--output", str(asked)]
    assert main(command) == 2
    assert "is there already; remove it, or name another folder" in capsys.readouterr().err


def test_a_system_that_copies_references_scores_as_the_method_that_does(
    images, external, make_run, translate, evaluate, asked
):
    code, run = external(images)
    assert code == 0
    expected_run = make_run(Perfect(), CLASSES)
    assert translate(expected_run, picture_sources=4) == 0
    scores, expected = evaluate(run), evaluate(expected_run)
    same_scores(scores, expected)
    assert scores["mean"]["kept_rate"] is not None
    assert scores["protocol"] == expected["protocol"] and scores["features"] == expected["features"]
    made, of = (read_tensors(folder / "translations.safetensors", (), "this test") for folder in (run, expected_run))
    assert made[0].keys() == of[0].keys() and made[1].keys() == of[1].keys()
    pictures, others = (np.load(folder / "pictures.npz") for folder in (run, expected_run))
    for name in ("sources", "references", "reference_grid", "reference_classes"):
        np.testing.assert_array_equal(pictures[name], others[name])


def test_an_editor_by_words_that_does_nothing_scores_as_doing_nothing(
    asked, tmp_path, external, make_run, translate, evaluate
):
    """One file a source and a target stands for every pair of the two."""
    folder = tmp_path / "edited"
    folder.mkdir()
    for row in rows(asked):
        target = row["target"].replace(" ", "_")
        shutil.copy(asked / "sources" / f"{row['source']}.png", folder / f"{row['source']}__{target}.png")
    code, run = external(folder, name="editor")
    assert code == 0
    expected_run = make_run(Identity(), CLASSES)
    assert translate(expected_run) == 0
    same_scores(evaluate(run), evaluate(expected_run))
    told = json.loads((run / "run.json").read_text())["external"]
    assert told["pairs"] == told["of"] == 72 and told["files"] == len(list(folder.iterdir())) < 72


def test_with_a_table_names_are_free(images, external, asked, tmp_path):
    code, run = external(images)
    assert code == 0
    named = read_tensors(run / "translations.safetensors", (), "this test")
    folder, table = tmp_path / "free", tmp_path / "what is what.csv"
    (folder / "some").mkdir(parents=True)
    lines = ["file,reference,target,source,note"]
    for i, row in enumerate(rows(asked) + rows(asked, "pictures.csv")):
        shutil.copy(images / row["file"], folder / "some" / f"{i}.png")
        lines.append(f"some/{i}.png, {row['reference']},{row['target']},{row['source']},x")
    table.write_text("\ufeff" + "\n".join(lines))  # as spreadsheets write it
    assert external(folder, "--table", table)[0] == 0
    again = read_tensors(run / "translations.safetensors", (), "this test")
    for name, array in named[0].items():
        np.testing.assert_array_equal(again[0][name], array)
    assert again[1] == named[1]  # the same pictures are the same run, whatever they are called


def test_what_is_there_is_scored_and_what_is_not_is_counted(images, external, evaluate, asked, manifest, capsys):
    kept = rows(asked)[::2]
    for row in rows(asked)[1::2] + rows(asked, "pictures.csv")[:1]:
        (images / row["file"]).unlink()
    (images / "notes.txt").touch()
    (images / ".DS_Store").touch()
    code, run = external(images)
    assert code == 0
    printed = capsys.readouterr()
    assert f"Copier 2.0: {len(kept)} files for " in printed.out and " of 72 pairs" in printed.out
    assert "1 in" in printed.err and printed.err.rstrip().endswith(
        "left out, for it is no JPEG, PNG or WebP: notes.txt"
    )
    record = json.loads((run / "run.json").read_text())
    assert record["external"] == {"title": "Copier 2.0", "files": len(kept), "pairs": len(kept), "of": 72}
    assert (record["method"], record["variant"], record["domains"]) == ("external", "copier", CLASSES)
    scores = evaluate(run)
    assert scores["external"] == record["external"] and scores["domains"] is scores["seed"] is None
    assert scores["images_seen"] is scores["train_seconds"] is None
    counts = {name: sum(row["target"] == name for row in kept) for name in CLASSES}
    assert {name: row["n_fake"] for name, row in scores["per_class"].items()} == counts
    assert all(row["candidate"] for row in scores["per_class"].values())
    grid = np.load(run / "pictures.npz")["reference_grid"]
    assert (grid == 255).all(axis=(2, 3, 4)).sum() >= 1  # no picture is there
    config = record["config"]
    shutil.copy(images / kept[1]["file"], images / kept[0]["file"])
    assert external(images)[0] == 0
    assert json.loads((run / "run.json").read_text())["config"] != config


def test_pictures_of_any_size_come_to_the_datasets_as_in_shard(images, external, asked, judge):
    path = images / rows(asked)[0]["file"]
    large = Image.open(path).convert("RGB").resize((96, 64))
    path.unlink()
    path = path.with_suffix(".webp")
    large.save(path, lossless=True)
    code, run = external(images)
    assert code == 0
    made, _ = read_tensors(run / "translations.safetensors", (), "this test")
    extractor = load_extractor(FeatureOptions("judge", judge))
    import torch

    image = torch.from_numpy(read_image(path, 32).copy()).permute(2, 0, 1)[None]
    np.testing.assert_allclose(made["features"][0], extractor.features(image)[0], atol=1e-5)


MISTAKES = [
    # what is wrong, a name made of one of pairs.csv's rows and of a key of split train, and the sentence
    ("name", "0001.png", "does not say what it translates; call it <source>__<target>.png or"),
    ("source", "0123456789abcdef__hat.png", "the source '0123456789abcdef', which is unknown; `lanit evaluate pairs`"),
    ("no source", "__hat.png", "does not say what it translates"),
    ("split", "{other}__hat.png", "the source '{other}', which is of split train, and test is scored"),
    ("reference", "{source}__hat__{other}.png", "the reference '{other}', which is of split train"),
    ("target", "{source}__crown.png", "the target 'crown', which is none of the evaluation classes (hat, "),
    ("pair", "{reference}__hat.png", "translates {reference} into 'hat', which is no pair of the protocol"),
    ("by", "{source}__hat__{source}.png", "into 'hat' by {source}, which is no pair of the protocol"),
    ("twice", "{source}__hat__{reference}.jpg", "are of one pair; keep one of them"),
    ("both", "{source}__hat.png", "are of one pair; keep one of them"),
]


@pytest.mark.parametrize("name, sentence", [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_what_was_not_asked_for_is_refused(images, external, asked, manifest, capsys, name, sentence):
    row = rows(asked)[0] | {"other": read_manifest(manifest, "train")["key"][0]}
    assert row["target"] == "hat"
    shutil.copy(images / row["file"], images / name.format(**row))
    code, run = external(images)
    said = capsys.readouterr().err
    assert code == 2 and sentence.format(**row) in said and said.count("\n") == 1
    assert not run.exists()


def test_other_mistakes_are_told_in_one_sentence(images, external, asked, tmp_path, capsys):
    def refused(*arguments, **changes):
        code, run = external(*arguments, **changes)
        assert code == 2 and not run.exists()
        return capsys.readouterr().err

    assert "no folder of translations at" in refused(tmp_path / "nowhere")
    assert "is 'lanit', which is a method of this project" in refused(images, name="lanit")
    assert "'crown' is none of the dataset's" in refused(images, classes=["hat", "crown"])
    assert "external.batch must be at least 1" in refused(images, batch=0)
    table = tmp_path / "table.csv"
    assert "table.csv cannot be read as CSV" in refused(images, "--table", table)
    row = rows(asked)[0]
    for text, sentence in (
        ("source,file\na,b", "line 2 of {table} has no target; the columns are source, target, reference, file"),
        ("source,target,file\n{source},hat,no.png", "line 2 of {table} names the file no.png, which is not in"),
        ("source,target,file\n{source},hat,../{asked}", "which is not in"),
        ("source,target,file\n{source},Hat,{file}", "line 2 of {table} names the target 'Hat'"),
    ):
        table.write_text(text.format(**row, asked=f"{asked.name}/pairs.csv"))
        assert sentence.format(table=table) in refused(images, "--table", table)
    damaged = images / row["file"]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert f"{damaged} cannot be scored (damaged" in refused(images)
    for path in images.glob("*__hat__*"):
        path.unlink()
    assert "has no translation into 'hat', and each evaluation class needs some" in refused(images)


def test_in_tables_plots_and_mlflow_it_is_marked(
    images, external, make_run, translate, evaluate, manifest, real, tmp_path, monkeypatch
):
    """Beside a method trained here, whose N it has not."""
    from lanit.tracking import TrackOptions, make_store
    from lanit.tracking.runs import find_runs
    from lanit.tracking.store import open_client

    store = make_store(TrackOptions(f"sqlite:///{tmp_path}/mlflow.db", "demo", ["faces"]), tmp_path / "store.json")
    code, run = external(images)
    assert code == 0
    trained = make_run(Perfect(), CLASSES)
    assert translate(trained, picture_sources=4) == 0
    evaluate(trained)
    track = ["--track", str(tmp_path / "store.json")]
    assert main([
        "evaluate", "scores", "--translations", str(run / "translations.safetensors"), "--real", str(real), "--run",
        str(run), "--manifest", str(manifest), "--output", str(run / "scores.json"), *track,
    ]) == 0  # fmt: skip
    output = tmp_path / "comparison"
    scores, pictures = ([str(folder / name) for folder in (trained, run)] for name in ("scores.json", "pictures.npz"))
    assert main(["compare", "--scores", *scores, "--pictures", *pictures, "--output", str(output), *track]) == 0
    tables = (output / "tables" / "comparison.md").read_text()
    (row,) = [line for line in tables.splitlines() if "Copier" in line and line.startswith("|")]
    assert row.startswith("| – | Copier 2.0 (external) | – |") and row.endswith("| – | – |")
    assert "Copier 2.0 (external): translated elsewhere, 72 of 72 pairs." in tables
    assert "| Copier 2.0 (external) | external |" in (output / "tables" / "table1.md").read_text()
    assert "Copier 2.0 (external)" in (output / "report.html").read_text()
    names = {path.name for path in (output / "pictures").iterdir()}
    assert "faces-external-copier-references.png" in names and not any("copier-latents" in name for name in names)
    client = open_client(store.uri)
    found = find_runs(client, store.experiments["faces"], {"lanit.method": "external"})
    assert [(child.info.run_name, child.info.status) for child in found] == [("copier (external)", "FINISHED")]
    assert found[0].data.metrics["mfid"] == json.loads(Path(scores[1]).read_text())["mean"]["mfid"]
    logged = [artifact.path for artifact in client.list_artifacts(found[0].info.run_id, "pictures")]
    assert logged == ["pictures/faces-external-copier-references.png"]
