# The configuration, checked, and the functions that take from it what a rule needs.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

BASE = Path(workflow.basedir)
sys.path[:0] = [str(BASE), str(BASE / "workflow" / "scripts")]  # the checkout beside the Snakefile, installed or not
from configuration import CHOICES, Mistake, check, describe_scored, describe_sharding
from lanit.address import database_path, ui_command
from lanit.catalogue import METHODS
from lanit.config import digest
from lanit.spelling import is_file_name

try:
    VARIANTS = check(config, BASE)
except Mistake as mistake:
    raise WorkflowError(str(mistake)) from None  # one sentence, and no trace of the functions above

# Rules run the checkout beside the Snakefile, installed or not: with the Python that runs Snakemake, or under
# --use-conda with the environment's, activated before this.
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
COMMAND_PATHS = f"export PYTHONPATH={shlex.quote(str(BASE))}; " + (
    "" if CONDA else f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
shell.prefix(COMMAND_PATHS.replace("{", "{{").replace("}", "}}"))

RESULTS = config["results"]
STORE = config["tracking"]["uri"] or f"sqlite:///{RESULTS}/mlflow.db"
# What trainings and scores are told of MLflow.
TRACK = json.dumps({"uri": STORE, "sweep": config["sweep"]}, ensure_ascii=False)
# What a profile or the command line says of rule train holds for its twin.
for given in (workflow.resource_settings.overwrite_resources, workflow.resource_settings.overwrite_threads):
    if "train" in given:
        given.setdefault("train_prompts", given["train"])
SPLITS = ("train", "val", "test", "pretrain")
# Of jobs that could start, which do first: what others wait for, then the longest.
PRIORITY = {
    "shards": 100,
    "clip": 90,
    "judge": 85,
    "embed": 80,
    "labels": 70,
    "train": 60,
    "short_train": 40,
    "score": 20,
    "report": 10,
}
SEEN = ("train", "val", "test")  # what methods see; pretrain teaches the demo's CLIP and the judge


wildcard_constraints:
    dataset="|".join(config["dataset"]),
    clip="|".join(config["clip"]),
    features="|".join(config["features"]),
    labeller="|".join(config["labellers"]),
    texts="texts(-.+)?",
    variant="|".join(VARIANTS),
    external="|".join(config["external"]) or "(?!)",
    split="|".join(SPLITS),
    shard=r"\d+",
    n=r"\d+",
    seed=r"\d+",


def as_json(**options):
    """The options of a command: what Snakemake compares to decide on a rerun is what the command is given."""
    return json.dumps(options, sort_keys=True)


class Told:
    """Options that a command is told without being run again where they change: Snakemake compares plain values alone."""

    def __init__(self, text="", **options):
        self.text = text or as_json(**options)

    def __str__(self):
        return self.text


def results(path):
    """A path in the folder of results."""
    return f"{RESULTS}/{path}"


RUN = results("{dataset}/{variant}-n{n}/seed{seed}")


def run_file(name):
    """A file in the folder of a run."""
    return f"{RUN}/{name}"


def get_sharding(wildcards):
    """Options of the shard stage."""
    return describe_sharding(config, wildcards.dataset)


def get_scored(wildcards):
    """What will be scored on a dataset: the shard stage looks whether it is there."""
    return Told(**describe_scored(config, wildcards.dataset))


def get_domains(wildcards):
    """The N candidate domains: the list given for this N, or a prefix of the one list."""
    domains, n = config["dataset"][wildcards.dataset]["domains"], int(wildcards.n)
    found = domains.get(n, []) if isinstance(domains, dict) else domains[:n]
    if len(found) != n:  # only of a file that was asked for by its name
        raise WorkflowError(f"dataset.{wildcards.dataset}.domains has no {n} names, and a file of N = {n} is asked for")
    return found


def get_all_domains(wildcards):
    """Every domain that some N names, once: texts are embedded once for all N."""
    domains = config["dataset"][wildcards.dataset]["domains"]
    return list(dict.fromkeys(sum(domains.values(), []))) if isinstance(domains, dict) else domains


def get_shards(wildcards, ending, splits=None):
    """Files of the shards: of all splits, or of those named."""
    shards = config["dataset"][wildcards.dataset]["shards"]
    folder = f"{RESULTS}/{wildcards.dataset}/shards"
    return [f"{folder}/{split}-{i}{ending}" for split in splits or shards for i in range(shards[split])]


def get_tars(wildcards, split):
    """The tars of a split that the dataset has."""
    return get_shards(wildcards, ".tar", [split])


def get_embeddings(wildcards, splits=SEEN):
    """Files of the images' embeddings, of those splits that the dataset has."""
    shards, clip = config["dataset"][wildcards.dataset]["shards"], config["dataset"][wildcards.dataset]["clip"]
    folder = f"{RESULTS}/{wildcards.dataset}/embeddings/{clip}"
    return [f"{folder}/{split}-{i}.safetensors" for split in splits for i in range(shards.get(split, 0))]


def get_texts(wildcards):
    """Texts that a labeller compares with: of the dataset's templates, or of its own."""
    own = f"-{wildcards.labeller}" if "templates" in config["labellers"][wildcards.labeller] else ""
    return f"{RESULTS}/{wildcards.dataset}/embeddings/{clip_of(wildcards)}/texts{own}.safetensors"


def get_templates(wildcards, labeller):
    """Templates of the prompts: the labeller's own (None is none), or the dataset's."""
    return config["labellers"].get(labeller, {}).get("templates", config["dataset"][wildcards.dataset]["templates"])


def get_rule_of(labeller):
    """What makes labels of cosines."""
    return {key: value for key, value in config["labellers"][labeller].items() if key != "templates"}


def clip_of(wildcards):
    """Name of the CLIP: the rule's own, or the dataset's."""
    return wildcards.get("clip") or config["dataset"][wildcards.dataset]["clip"]


def get_clip(wildcards):
    """CLIP options: an open_clip model by name or file, its weights by tag or file, and how they see images."""
    clip = config["clip"][clip_of(wildcards)]
    trained = f"{RESULTS}/clip/{clip_of(wildcards)}/clip.safetensors"
    given = {key: value for key, value in clip.items() if key != "train" and value is not None}
    return given | ({"pretrained": trained} if "train" in clip else {})


def get_clip_files(wildcards):
    """The files among them: a model that changes makes everything that came of it anew."""
    clip = get_clip(wildcards)
    if "train" in config["clip"][clip_of(wildcards)]:  # not there yet
        return [value for value in clip.values() if is_file_name(value)]
    return list_files(clip["model"], clip.get("pretrained"))


def get_features(wildcards):
    """Features options: a judge trained here, or Inception by its weights; the rule's own, or the dataset's."""
    name = wildcards.get("features") or config["dataset"][wildcards.dataset]["features"]
    features = config["features"][name]
    if features["kind"] == "judge":
        return {"kind": "judge", "weights": f"{RESULTS}/{wildcards.dataset}/features/{name}/judge.safetensors"}
    return {"kind": "inception", "weights": features["weights"]}


def get_features_files(wildcards):
    return [value for value in [get_features(wildcards)["weights"]] if is_file_name(value)]


def get_real_features(wildcards):
    """Features of the real images of the split that is scored."""
    folder = f"{RESULTS}/{wildcards.dataset}/features/{config['dataset'][wildcards.dataset]['features']}"
    return f"{folder}/{config['evaluate']['split']}.safetensors"


def get_supervision(variant):
    """What the variant's method may read beside images: text, truth or none."""
    return METHODS[VARIANTS[variant]["method"]].supervision


def is_labelled(variant):
    """Does the variant train on labels?"""
    return METHODS[VARIANTS[variant]["method"]].is_labelled


def learns_prompts(variant):
    """Do the variant's prompts learn? Then the labels change with them."""
    return VARIANTS[variant].get("prompts") == "learned"


def get_labels(wildcards, split="train"):
    """Files of the label stage that a variant trains on; none where it learns without."""
    supervision = get_supervision(wildcards.variant)
    if supervision == "none":
        return []
    folder = f"{RESULTS}/{wildcards.dataset}/labels/{VARIANTS[wildcards.variant]['labeller']}-n{wildcards.n}"
    return [f"{folder}/{split}.parquet"] + ([f"{folder}/texts.safetensors"] if supervision == "text" else [])


def get_labels_of_run(wildcards):
    """The labels that a trained run is translated by: those of its own prompts where these have learned."""
    split = config["evaluate"]["split"]
    if not learns_prompts(wildcards.variant):
        return get_labels(wildcards, split)
    return [run_file(f"labels/{name}").format(**wildcards) for name in (f"{split}.parquet", "texts.safetensors")]


def as_argument(name, paths):
    """The argument and its values; nothing where there are none."""
    return [name, *paths] if paths else []


def get_labels_argument(wildcards, input):
    """The folder of the labels among a rule's input."""
    return as_argument("--labels", sorted({str(Path(path).parent) for path in input.labels}))


def get_labelling(wildcards, labeller):
    """Options of the labels of one labeller."""
    return {"labeller": get_rule_of(labeller), "domains": get_domains(wildcards)}


def get_training(wildcards):
    """The options of one training: everything that its result depends on."""
    variant, dataset = VARIANTS[wildcards.variant], config["dataset"][wildcards.dataset]
    options = {
        "dataset": wildcards.dataset,
        "variant": wildcards.variant,
        "domains": get_domains(wildcards),
        "seed": int(wildcards.seed),
        "size": dataset["size"],
        **{key: value for key, value in variant.items() if key not in CHOICES},
    }
    if "perceptual" in variant.get("settings", {}):
        options["settings"] = variant["settings"] | {"perceptual": get_perceptual(wildcards)}
    return options | {"language": get_language(wildcards)} if get_supervision(wildcards.variant) == "text" else options


def get_perceptual(wildcards):
    """What a variant's perceptual distance is told: the dataset's CLIP or judge, where it names none of its own."""
    given = VARIANTS[wildcards.variant].get("settings", {}).get("perceptual", {})
    if given.get("kind") == "clip" and "clip" not in given:
        return given | {"clip": get_clip(wildcards)}
    if given.get("kind") == "judge" and "weights" not in given:
        return given | {"weights": get_features(wildcards)["weights"]}
    return given


def get_perceptual_files(wildcards):
    """The files among it: a training waits for them."""
    given, own = get_perceptual(wildcards), VARIANTS[wildcards.variant].get("settings", {}).get("perceptual", {})
    clip = []
    if given.get("clip"):
        clip = (
            list_files(own["clip"]["model"], own["clip"].get("pretrained"))
            if "clip" in own
            else get_clip_files(wildcards)
        )
    return clip + [value for value in (given.get("weights"), given.get("linear")) if is_file_name(value)]


def get_language(wildcards):
    """What a method that is led by language is told of it."""
    variant = VARIANTS[wildcards.variant]
    return {
        "clip": get_clip(wildcards),
        "templates": get_templates(wildcards, variant["labeller"]),
        "labeller": get_rule_of(variant["labeller"]),
        "prompts": variant["prompts"],
        "uncovered": variant["uncovered"],
    }


def get_clip_tars(wildcards):
    """The tars that a small CLIP learns from."""
    dataset = config["clip"][wildcards.clip]["train"]["dataset"]
    return [
        f"{RESULTS}/{dataset}/shards/pretrain-{i}.tar" for i in range(config["dataset"][dataset]["shards"]["pretrain"])
    ]


def get_clip_training(wildcards):
    """Options of a small CLIP's training: on captions from the templates of the dataset that it learns from."""
    clip = config["clip"][wildcards.clip]
    options = {key: value for key, value in clip["train"].items() if key != "dataset"}
    return options | {"model": clip["model"], "templates": config["dataset"][clip["train"]["dataset"]]["templates"]}


def get_translation(wildcards):
    """Options of a run's translation: the protocol, the classes and the features."""
    classes = config["dataset"][wildcards.dataset]["classes"]
    return {"protocol": config["evaluate"], "classes": classes, "features": get_features(wildcards)}


def get_external(wildcards):
    """Options of an external system: what it is called, and those of a translation."""
    title = config["external"][wildcards.external]["title"]
    return {"name": wildcards.external, "title": title, "dataset": wildcards.dataset, **get_translation(wildcards)}


def get_external_files(wildcards):
    """Its translations and, where there is one, their table."""
    external = config["external"][wildcards.external]
    return {"images": external["images"], "table": [external["table"]] if external["table"] else []}


def get_external_state(wildcards):
    """Stands for what its folder holds: a file that is replaced leaves the folder's own time as it was."""
    files = filter(Path.is_file, Path(config["external"][wildcards.external]["images"]).rglob("*"))
    return digest(sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def get_pairs(wildcards):
    """Options of what other systems are asked to translate."""
    return {key: value for key, value in get_translation(wildcards).items() if key != "features"}


def get_scoring(wildcards):
    """Options of a run's scores."""
    return {"protocol": config["evaluate"]}


def get_runs(ending, variants=None):
    """One file of every run of the sweep, or of those of some variants."""
    return [
        run_file(ending).format(dataset=dataset, variant=variant, n=n, seed=seed)
        for dataset in config["datasets"]
        for variant in (config["methods"] if variants is None else variants)
        for n in config["domains"]
        for seed in config["seeds"]
    ]


def get_externals(ending):
    """One file of every external system of the sweep."""
    return [
        f"{RESULTS}/{dataset}/external/{name}/{ending}"
        for dataset in config["datasets"]
        for name, external in config["external"].items()
        if external["dataset"] == dataset
    ]


def get_runs_with_learned_prompts(ending):
    return get_runs(ending, list(filter(learns_prompts, config["methods"])))


def get_qualities(wildcards=None):
    """How good the labels of every labeller are, for every N, and those of prompts that have learned."""
    return [
        f"{RESULTS}/{dataset}/labels/{labeller}-n{n}/quality.json"
        for dataset in config["datasets"]
        for labeller, rule in config["labellers"].items()
        if rule["kind"] != "truth"
        for n in config["domains"]
    ] + get_runs_with_learned_prompts("labels/quality.json")


def get_sweep(wildcards=None):
    """Every file that tables rest on: asked for by name, one that was lost is made again though they are there."""
    runs = [
        path for name in ("model.safetensors", "run.json", "scores.json", "pictures.npz") for path in get_runs(name)
    ]
    externals = [path for name in ("run.json", "scores.json", "pictures.npz") for path in get_externals(name)]
    return runs + externals + get_qualities()


def is_store_lost():
    """Is the store's database gone, of which there is a record?"""
    database = database_path(STORE)
    return database is not None and not database.exists() and Path(results("mlflow.json")).exists()


def list_missing(paths):
    return [path for path in paths if not Path(path).exists()]


def describe_results(paths):
    """Where everything is, to print at the end; or, where one of the sweep's files is not, what is missing."""
    if missing := list_missing(paths):
        return f"Not the whole sweep: {len(missing)} of its {len(paths)} files are not there, such as {missing[0]}."
    return f"""
Tables    {RESULTS}/tables/comparison.md (also .csv and .tex; table1, table2, labels)
Plots     {RESULTS}/plots/
Pictures  {RESULTS}/pictures/
Report    {RESULTS}/report.html
MLflow    {ui_command(STORE, str(Path(sys.executable).parent / "mlflow"))}    then open http://127.0.0.1:5000"""
