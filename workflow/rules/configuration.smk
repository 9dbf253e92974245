# The configuration against its schema, and what a schema cannot say. An error names the key and says what to do.
import difflib

import jsonschema
import yaml
from snakemake.utils import validate

METHODS = ("lanit", "tunit")


def is_file_name(value):
    """Is this the path of a file, and not the name of a public model or tag?"""
    return isinstance(value, str) and value.endswith((".json", ".safetensors", ".pt", ".pth", ".bin"))


class Mistake(Exception):
    """A mistake in the configuration."""


def fail(key, text):
    raise Mistake(f"configuration: {key} {text}")


def pick(key, name, known):
    if name not in known:
        close = difflib.get_close_matches(str(name), map(str, known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(map(str, known)) or 'none'}"
        fail(key, f"names {name!r}, which is not there; {hint}")


def check_schema():
    """Name the wrong key in one sentence, then let Snakemake fill in the defaults."""
    schema = BASE / "workflow" / "schemas" / "config.schema.yaml"
    errors = jsonschema.Draft202012Validator(yaml.safe_load(schema.read_text())).iter_errors(config)
    for error in sorted(errors, key=lambda error: ([str(part) for part in error.absolute_path], error.validator)):
        key = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = sorted(set(map(str, error.instance)) - set(known))[0]
            close = difflib.get_close_matches(unknown, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            fail(f"{key}.{unknown}".lstrip("."), f"is not a key here; {hint}")
        fail(key or "the file", f"is wrong: {error.message}")
    validate(config, str(schema))


def check_dataset(name):
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
            fail(f"{where}.domains", f"holds {len(domains)} names, not the N = {n} of `domains`; add names or drop that N")
    clip, features = config["clip"][dataset["clip"]], config["features"][dataset["features"]]
    if "train" in clip:
        pick(f"clip.{dataset['clip']}.train.dataset", clip["train"]["dataset"], config["dataset"])
        if "pretrain" not in config["dataset"][clip["train"]["dataset"]]["shards"]:
            fail(f"clip.{dataset['clip']}.train", "needs split pretrain in the `shards` of the dataset that it learns from")
    if ("train" in clip) == (clip["pretrained"] is not None):
        fail(f"clip.{dataset['clip']}", "must hold either `pretrained` (a tag or a file) or `train`")
    if features["kind"] == "judge" and "pretrain" not in dataset["shards"]:
        fail(f"features.{dataset['features']}", f"is a judge, which needs split pretrain in {where}.shards")
    check_files(where, dataset, clip, features)


def check_files(where, dataset, clip, features):
    """What the user brings is there, unless what comes of it is."""
    name = where.split(".")[-1]
    if not Path(config["results"], name, "shards", "plan.parquet").exists():
        for path in find_paths(dataset["source"]):
            if not Path(path).exists():
                help = dataset["missing"] or "put the images there or give their place"
                fail(f"{where}.source", f"names {path}, where nothing is; {help}")
    for key, value in (
        (f"clip.{dataset['clip']}.model", clip["model"]),
        (f"clip.{dataset['clip']}.pretrained", clip["pretrained"]),
        (f"features.{dataset['features']}.weights", features["weights"]),
    ):
        if is_file_name(value) and not Path(value).is_file():
            fail(key, f"names {value}, where no file is; put it there or give its place")


def find_paths(source):
    """The folders and the table among a source's options."""
    keys = ("root", "train", "test", "pretrain", "images", "table")
    return [source[key] for key in keys if isinstance(source.get(key), str)]


def check_configuration():
    check_schema()
    for i, name in enumerate(config["datasets"]):
        pick(f"datasets[{i}]", name, config["dataset"])
        check_dataset(name)
    pick("labeller", config["labeller"], config["labellers"])
    for method in config["methods"]:
        if method not in config["train"]:
            fail(f"train.{method}", "is missing: give the options of each of `methods`")


try:
    check_configuration()
except Mistake as mistake:
    raise WorkflowError(str(mistake)) from None  # one sentence, and no trace of the functions above
