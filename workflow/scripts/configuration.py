"""The configuration of a sweep, made plain, against its schema, and what a schema cannot say.

The Snakefile calls `check`; an error names the key and says what to do. Nothing here needs torch.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import yaml
from snakemake.utils import validate

from lanit import catalogue, spelling
from lanit.address import SQLITE, check_kind, keep_password
from lanit.catalogue import METHODS
from lanit.config import LanitError, digest, parse
from lanit.language.clip_options import ClipOptions, is_path, list_files
from lanit.spelling import is_file_name

CHOICES = ("labeller", "prompts", "uncovered")  # what they may be told of these, for the whole sweep or a variant


class Mistake(Exception):
    """A mistake in the configuration."""


def fail(key: str, text: str) -> NoReturn:
    raise Mistake(f"configuration: {key} {text}")


def pick(key, name, known):
    if name not in known:
        close = difflib.get_close_matches(str(name), map(str, known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(map(str, known)) or 'none'}"
        fail(key, f"names {name!r}, which is not there; {hint}")


def check_schema(config, base):
    """Name the wrong key in one sentence, then let Snakemake fill in the defaults."""
    path = base / "workflow" / "schemas" / "config.schema.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    spelling.switch_off(config)
    spelling.check_names(config)
    spelling.read_numbers(config, schema)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    for error in sorted(errors, key=lambda error: ([str(part) for part in error.absolute_path], error.validator)):
        key = ".".join(str(part) for part in error.absolute_path)
        if key.startswith("tracking") and error.validator != "additionalProperties":
            fail("tracking.uri", "must be null, sqlite:///… or http(s)://…")  # and what it is may hold a password
        if error.validator == "type" and error.validator_value == "string" and not isinstance(error.instance, list):
            fail(key, f"is {spelling.describe(error.instance)}; put quotes around the text")
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = sorted(set(map(str, error.instance)) - set(known))[0]
            close = difflib.get_close_matches(unknown, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            fail(f"{key}.{unknown}".lstrip("."), f"is not a key here; {hint}")
        fail(key or "the file", f"is wrong: {error.message}")
    validate(config, str(path))


def name_places(config, base):
    """Every file and folder by its one name; a server's password goes where MLflow reads it, and is never shown."""
    spelling.name_places(config, base)
    config["results"] = spelling.place_name(config["results"], Path.cwd(), "results")
    uri = config["tracking"]["uri"]
    if uri is None:
        return check_kind(f"{SQLITE}{config['results']}/mlflow.db", "results: the address of its MLflow store,")
    if uri.startswith(SQLITE):
        uri = SQLITE + spelling.place_name(uri.removeprefix(SQLITE), Path.cwd(), "tracking.uri")
    config["tracking"]["uri"] = keep_password(uri)
    check_kind(config["tracking"]["uri"], "tracking.uri")


def check_dataset(config, name):
    dataset = config["dataset"][name]
    where = f"dataset.{name}"
    pick(f"{where}.clip", dataset["clip"], config["clip"])
    pick(f"{where}.features", dataset["features"], config["features"])
    for n in config["domains"]:
        domains = dataset["domains"]
        if isinstance(domains, dict):
            if n not in domains:
                fail(f"{where}.domains", f"has no list for N = {n}, which `domains` asks for; add one or drop that N")
            if len(domains[n]) != n:
                fail(f"{where}.domains.{n}", f"holds {len(domains[n])} names; it must hold {n}")
        elif n > len(domains):
            fail(
                f"{where}.domains",
                f"holds {len(domains)} names, not the N = {n} of `domains`; add names or drop that N",
            )
    clip, features = config["clip"][dataset["clip"]], config["features"][dataset["features"]]
    if "train" in clip:
        pick(f"clip.{dataset['clip']}.train.dataset", clip["train"]["dataset"], config["dataset"])
        if "pretrain" not in config["dataset"][clip["train"]["dataset"]]["shards"]:
            fail(
                f"clip.{dataset['clip']}.train",
                "needs split pretrain in the `shards` of the dataset that it learns from",
            )
    check_clip(config, dataset["clip"])
    if features["kind"] == "judge" and "pretrain" not in dataset["shards"]:
        fail(f"features.{dataset['features']}", f"is a judge, which needs split pretrain in {where}.shards")
    if config["evaluate"]["split"] not in dataset["shards"]:
        fail(
            "evaluate.split",
            f"is {config['evaluate']['split']!r}, which {where}.shards lacks: give it one, and its images",
        )
    check_files(config, where, dataset, clip, features)


def check_clip(config, name):
    """A CLIP is given, with its files, or trained; and how its weights see images is told of what was given alone."""
    clip, where = config["clip"][name], f"clip.{name}"
    told = {key: value for key, value in clip.items() if key not in ("model", "pretrained", "train", "resize")}
    told = {key: value for key, value in told.items() if value is not None}
    if "train" in clip:
        if clip["pretrained"] is not None:
            fail(where, "must hold either `pretrained` (a tag, a file or a folder) or `train`")
        if told:
            fail(
                f"{where}.{next(iter(told))}",
                "is of weights that are given; a CLIP that is trained here knows: drop it",
            )
        return
    if clip["pretrained"] is None and not is_path(clip["model"]):
        fail(where, "must hold either `pretrained` (a tag, a file or a folder) or `train`")
    try:
        parse(ClipOptions, {key: value for key, value in clip.items() if value is not None}, where)
        list_files(clip["model"], clip["pretrained"])
    except LanitError as error:
        fail(where, f"cannot be used: {error}")


def check_files(config, where, dataset, clip, features):
    """What the user brings is there, unless what comes of it is."""
    name = where.split(".")[-1]
    if not Path(config["results"], name, "shards", "plan.parquet").exists():
        for path in find_paths(dataset["source"]):
            if not Path(path).exists():
                help = dataset["missing"] or "put the images there or give their place"
                fail(f"{where}.source", f"names {path}, where nothing is; {help}")
    for key, value in (
        (f"clip.{dataset['clip']}.model", clip["model"] if "train" in clip else None),
        (f"features.{dataset['features']}.weights", features["weights"]),
    ):
        if is_file_name(value) and not Path(value).is_file():
            fail(key, f"names {value}, where no file is; put it there or give its place")


def describe_sharding(config, name):
    """Options of the shard stage."""
    return {"name": name} | {key: config["dataset"][name][key] for key in ("source", "size", "shards", "max_damaged")}


def describe_scored(config, name):
    """What will be scored on a dataset."""
    return {"classes": config["dataset"][name]["classes"]} | {key: config["evaluate"][key] for key in ("k", "split")}


def check_data(config, name):
    """What the images can tell, where they are known already; where not, the shard stage says it first of all."""
    card = Path(config["results"], name, "dataset.json")
    if not card.exists():
        return
    from lanit.data.scored import check_card, parse_scored
    from lanit.data.shard import ShardOptions

    try:
        options = digest(parse(ShardOptions, describe_sharding(config, name)))
        check_card(card, options, parse_scored(describe_scored(config, name)), config["dataset"][name]["source"])
    except LanitError as error:
        fail(f"dataset.{name}", f"cannot be scored: {error}")


def find_paths(source):
    """The folders and the tables among a source's options."""
    keys = ("root", "train", "val", "test", "pretrain", "images", "table", "partition", "identities")
    return [source[key] for key in keys if isinstance(source.get(key), str)]


def check_labellers(config):
    for name, labeller in config["labellers"].items():
        for n in config["domains"]:
            if labeller["kind"] == "top_k" and labeller["k"] > n:
                fail(
                    f"labellers.{name}.k",
                    f"is {labeller['k']}, more than the N = {n} of `domains`; give a smaller k, drop that N, or switch "
                    f"the labeller off with `labellers: {{{name}: null}}`",
                )


def check(config: dict[str, Any], base: Path) -> dict[str, dict[str, Any]]:
    """Check a configuration, fill in its defaults, and return the sweep's variants: name → method and all its options.

    Args:
        config: the configuration, changed in place.
        base: the checkout, where schema and shipped files lie.

    Raises:
        Mistake: in one sentence, with the key.
    """
    try:
        return _check(config, base)
    except LanitError as error:
        raise Mistake(f"configuration: {error}") from None


def _check(config, base):
    check_schema(config, base)
    name_places(config, base)
    check_labellers(config)
    for i, name in enumerate(config["datasets"]):
        pick(f"datasets[{i}]", name, config["dataset"])
        check_dataset(config, name)
        check_data(config, name)
    pick("labeller", config["labeller"], config["labellers"])
    variants = [name for name in config["train"] if name != "images"]
    for i, name in enumerate(config["methods"]):
        pick(f"methods[{i}]", name, variants)
    for name in config["external"]:
        check_external(config, name)
    resolved = {name: resolve_variant(config, name) for name in variants}
    for name in config["methods"]:
        check_settings(config, name, resolved[name])
    return resolved


def check_settings(config, name, variant):
    """A method's own options, and that its networks suit each dataset and N: known before anything runs."""
    settings = dict(variant.get("settings", {}))
    if "perceptual" in settings:  # of the dataset's CLIP or judge, where it names none: rules say which
        kind = settings["perceptual"].get("kind")
        place = {"clip": {"clip": {"model": "", "pretrained": ""}}, "judge": {"weights": "judge.safetensors"}}
        settings["perceptual"] = place.get(kind, {}) | settings["perceptual"]
    where = f"train.{name}.settings"
    options = catalogue.read_settings(variant["method"], settings, where)
    for dataset in config["datasets"]:
        for n in config["domains"]:
            try:
                options.check(config["dataset"][dataset]["size"], n)
            except LanitError as error:
                fail(where, f"does not suit {dataset} at N = {n}: {error}")
    if variant.get("prompts") is not None and hasattr(options, "check_prompts"):
        options.check_prompts(variant["prompts"])


def check_external(config, name):
    """Another system has a name and a title of its own, and the translations of those in the sweep are there."""
    external, where = config["external"][name], f"external.{name}"
    pick(f"{where}.dataset", external["dataset"], config["dataset"])
    if name in config["train"] or name in METHODS:
        fail(where, "has the name of what is trained here; choose another")
    titles = {key: other["title"] for key, other in config["external"].items() if key != name}
    if external["title"] in titles.values():
        fail(f"{where}.title", f"is {external['title']!r}, which is another's too; tables would not tell them apart")
    if external["dataset"] not in config["datasets"]:
        return
    if not Path(external["images"]).is_dir():
        fail(
            f"{where}.images",
            f"names {external['images']}, where no folder is; put the translations there or give their place "
            f"(`snakemake {config['results']}/{external['dataset']}/pairs` writes what there is to translate)",
        )
    if external["table"] is not None and not Path(external["table"]).is_file():
        fail(f"{where}.table", f"names {external['table']}, where no file is; put it there or give its place")


def resolve_variant(config, name):
    """The method that a variant is, and its options with those of what it is like beneath: images, batch, settings …"""
    options = {"images": config["train"]["images"], **inherit(config, name)}
    where, method = f"train.{name}", options["method"]
    if "batch" not in options:
        fail(f"{where}.batch", "is missing: give the number of source images a step")
    supervision = METHODS[method].supervision
    defaults = {
        "text": {choice: config[choice] for choice in CHOICES},
        "truth": {"labeller": "truth"},
        "none": {},
    }[supervision]
    if told := [choice for choice in CHOICES if choice in options and choice not in defaults]:
        without = "labels" if supervision == "none" else "language"
        fail(f"{where}.{told[0]}", f"is of no use to {method}, which trains without {without}; drop it")
    options = defaults | options
    if "labeller" in options:
        pick(f"{where}.labeller", options["labeller"], config["labellers"])
        if (config["labellers"][options["labeller"]]["kind"] == "truth") != (supervision == "truth"):
            may = "labels of truth alone" if supervision == "truth" else "no truth"
            fail(f"{where}.labeller", f"names {options['labeller']!r}, and {method} may read {may}; name another")
    return options


def inherit(config, name, above=()):
    """What a key of `train` says, laid over what the key that it is like says."""
    own, where, above = config["train"][name], f"train.{name}", (*above, name)
    if name in METHODS:
        if "like" in own:
            fail(f"{where}.like", f"is of no use: {name} is a method itself; drop it, or give the variant another name")
        return {"method": name, **own}
    if "like" not in own:
        fail(where, f"is not a method ({', '.join(METHODS)}): name with `like` the key of `train` that it is like")
    pick(f"{where}.like", own["like"], [key for key in config["train"] if key != "images"])
    if own["like"] in above:
        fail(f"{where}.like", f"goes round in a circle ({' -> '.join((*above, own['like']))}); end it at a method")
    return merge(inherit(config, own["like"], above), {key: value for key, value in own.items() if key != "like"})


def merge(under, over):
    """Mappings merge, the rest replaces."""
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {key: merge(under.get(key), value) for key, value in over.items()}
    return over
