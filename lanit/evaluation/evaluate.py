"""Stage `evaluate`: `lanit evaluate judge` trains a judge, `features` sees the real images, `scores` compares.

`pairs` and `external` are for the translations of other systems (`lanit.evaluation.external`).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from lanit.config import LanitError, parse, read_options
from lanit.evaluation import external
from lanit.evaluation.protocols import Protocol
from lanit.evaluation.records import read_run, read_split_truth

BATCH = 64  # images that an extractor sees at once


@dataclass(frozen=True)
class ScoreOptions:
    protocol: Protocol | None = None  # what the translations must have been made under; null takes theirs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="step")

    judge = steps.add_parser("judge", help="train the judge with truth on split pretrain")
    judge.add_argument("--options", default="{}", help="JSON, or the path of a JSON or YAML file")
    _add_device(judge)
    judge.set_defaults(run=run_judge)

    features = steps.add_parser("features", help="extract the features of a split's real images")
    features.add_argument("--features", required=True, help="{kind, weights}: JSON, or the path of a JSON or YAML file")
    features.add_argument("--split", default="test")
    _add_device(features)
    features.set_defaults(run=run_features)

    scores = steps.add_parser("scores", help="score the translations of one run")
    scores.add_argument("--translations", required=True, type=Path, help="translations.safetensors of the run")
    scores.add_argument("--real", required=True, type=Path, help="features of the protocol's split")
    scores.add_argument("--run", dest="run_folder", required=True, type=Path, help="folder of the run")
    scores.add_argument("--options", default="{}", help="JSON, or the path of a JSON or YAML file")
    scores.add_argument("--track", help="MLflow's store: {uri, sweep} as JSON or a file; without it nothing goes there")
    scores.add_argument("--pictures", type=Path, nargs="*", default=[], help="files to hand to MLflow with the scores")
    scores.set_defaults(run=run_scores)

    external.add_arguments(steps)
    for step in (judge, features, scores):
        step.add_argument("--manifest", required=True, type=Path, help="manifest.parquet of the dataset")
        step.add_argument("--output", required=True, type=Path, help="file to write")


def run_judge(arguments: argparse.Namespace) -> None:
    from lanit.data.batches import ImageStore
    from lanit.data.manifest import read_card, read_truth
    from lanit.evaluation.features import choose_device
    from lanit.evaluation.judge import SPLIT, JudgeOptions, read_small, save_judge, train_judge

    options = parse(JudgeOptions, read_options(arguments.options), "judge")
    device = choose_device(arguments.device)
    card = read_card(arguments.manifest.parent / "dataset.json")
    truth = read_truth(arguments.manifest, SPLIT).drop(columns="key")
    images = read_small(ImageStore(arguments.manifest, SPLIT), options.size)
    judge, accuracy = train_judge(images, truth.to_numpy(bool), list(truth.columns), card.exclusive, options, device)
    save_judge(judge, arguments.output, options, accuracy)
    worst = min(accuracy, key=accuracy.__getitem__)
    mean = sum(accuracy.values()) / len(accuracy)
    print(f"judge of {len(accuracy)} classes: held-out accuracy {mean:.3f}, lowest {accuracy[worst]:.3f} ({worst})")


def run_features(arguments: argparse.Namespace) -> None:
    import torch

    from lanit.data.batches import ImageStore
    from lanit.evaluation.features import FeatureOptions, choose_device, load_extractor
    from lanit.files import write_tensors

    options = parse(FeatureOptions, read_options(arguments.features), "features")
    extractor = load_extractor(options, choose_device(arguments.device))
    store = ImageStore(arguments.manifest, arguments.split)
    features = []
    for start in range(0, len(store), BATCH):
        features.append(extractor.features(store.read(range(start, min(start + BATCH, len(store))))))
    arrays = {"features": torch.cat(features)}
    logits = extractor.logits(arrays["features"])
    if logits is not None:
        arrays["logits"] = logits
    metadata = {
        "features": extractor.name,
        "classes": extractor.classes,
        "exclusive": extractor.exclusive,
        "split": arguments.split,
    }
    write_tensors(arguments.output, {name: tensor.numpy() for name, tensor in arrays.items()}, metadata)
    print(f"{len(store)} images of split {arguments.split}, {extractor.name} features")


def run_scores(arguments: argparse.Namespace) -> None:
    from lanit.evaluation.clusters import cluster_quality
    from lanit.evaluation.scores import Real, Translations, score
    from lanit.files import read_tensors, write_whole

    options = parse(ScoreOptions, read_options(arguments.options), "scores")
    record = read_run(arguments.run_folder)
    needed = ("features", "source", "reference", "target", "protocol", "classes", "config")
    made, about = read_tensors(arguments.translations, needed, "lanit translate")
    seen, about_real = read_tensors(arguments.real, ("features", "split"), "lanit evaluate features")
    protocol = parse(Protocol, about["protocol"], f"the protocol in {arguments.translations}")
    known, truth, _ = read_split_truth(arguments.manifest, protocol.split)
    if options.protocol not in (None, protocol):
        raise LanitError(f"{arguments.translations} was made under {protocol}, not {options.protocol}; translate again")
    if about["config"] != record["config"]:
        raise LanitError(f"{arguments.translations} is not of the training in {arguments.run_folder}; translate again")
    if about["features"] != about_real["features"]:
        raise LanitError(
            f"the translations have {about['features']} features and the real images {about_real['features']}; "
            "extract both with the same weights"
        )
    if about_real["split"] != protocol.split or len(seen["features"]) != len(truth):
        raise LanitError(
            f"{arguments.real} does not hold the manifest's {len(truth)} {protocol.split} images; extract them again"
        )

    per_class, mean = score(
        Translations(
            features=made["features"],
            source=made["source"],
            reference=made["reference"],
            target=made["target"],
            classes=about["classes"],
            logits=made.get("logits"),
            unlabelled=made.get("unlabelled"),
        ),
        Real(seen["features"], truth, known, seen.get("logits"), about_real["classes"], bool(about_real["exclusive"])),
        record["domains"],
        protocol.k,
    )
    clusters = None
    if "clusters" in made:
        of_classes = truth[:, [known.index(name) for name in about["classes"]]]
        clusters = cluster_quality(made["clusters"], of_classes, about["clusters"])
    copied = ("dataset", "method", "seed", "images_seen", "train_seconds", "code", "config")
    variant = record.get("variant") or record["method"]
    scores = {key: record[key] for key in copied} | {
        "variant": variant,
        "domains": len(record["domains"]),
        "protocol": protocol.describe(about["classes"]),
        "features": about["features"],
        "per_class": per_class,
        "mean": mean,
        "clusters": clusters,
    }
    if record.get("perceptual"):
        scores["perceptual"] = record["perceptual"]
    of = f"with {len(record['domains'])} domains, seed {record['seed']}"
    if told := record.get("external"):  # has neither N nor seed
        scores |= {"domains": None, "seed": None, "external": told}
        of = f"(external, {told['pairs']} of {told['of']} pairs)"
    write_whole(arguments.output, (json.dumps(scores, indent=2, allow_nan=False) + "\n").encode())
    shown = "  ".join(f"{name} {value:.3f}" for name, value in mean.items() if value is not None)
    print(f"{variant} {of}: {shown}")
    if arguments.track is not None:
        from lanit.tracking import log_scores

        try:
            log_scores(arguments.track, arguments.run_folder, scores, arguments.pictures)
        except LanitError as error:  # scores that were hours in the making are not lost to it
            print(f"warning: the scores are in {arguments.output}, and not in MLflow: {error}", file=sys.stderr)


def _add_device(parser: argparse.ArgumentParser) -> None:
    text = "auto is a GPU where there is one"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help=text)
