# The configuration, checked, and the functions that take from it what a rule needs.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

BASE = Path(workflow.basedir)


include: "configuration.smk"


# Rules run the checkout beside the Snakefile, installed or not: with the Python that runs Snakemake, or under
# --use-conda with the environment's, activated before this.
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
COMMAND_PATHS = f"export PYTHONPATH={shlex.quote(str(BASE))}; " + (
    "" if CONDA else f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
shell.prefix(COMMAND_PATHS.replace("{", "{{").replace("}", "}}"))

sys.path.insert(0, str(BASE / "workflow" / "scripts"))
from lease_gpus import list_devices

GPUS = list_devices()
RESULTS = config["results"]
STORE = config["tracking"]["uri"] or f"sqlite:///{RESULTS}/mlflow.db"
SPLITS = ("train", "test")  # what methods see; a third split, pretrain, teaches the demo's CLIP and the judge


wildcard_constraints:
    dataset="|".join(config["dataset"]),
    clip="|".join(config["clip"]),
    features="|".join(config["features"]),
    labeller="|".join(config["labellers"]),
    texts="texts(-.+)?",
    variant="|".join(VARIANTS),
    split="|".join((*SPLITS, "pretrain")),
    shard=r"\d+",
    n=r"\d+",
    seed=r"\d+",


def as_json(**options):
    """The options of a command: what Snakemake compares to decide on a rerun is what the command is given."""
    return json.dumps(options, sort_keys=True)


def results(path):
    """A path in the folder of results."""
    return f"{RESULTS}/{path}"


def get_sharding(wildcards):
    """Options of the shard stage."""
    dataset = config["dataset"][wildcards.dataset]
    return {"name": wildcards.dataset} | {key: dataset[key] for key in ("source", "size", "shards", "max_damaged")}


def get_domains(wildcards):
    """The N candidate domains: the list given for this N, or a prefix of the one list."""
    domains, n = config["dataset"][wildcards.dataset]["domains"], int(wildcards.n)
    return domains[n] if isinstance(domains, dict) else domains[:n]


def get_all_domains(wildcards):
    """Every domain that some N names, once: texts are embedded once for all N."""
    domains = config["dataset"][wildcards.dataset]["domains"]
    return list(dict.fromkeys(sum(domains.values(), []))) if isinstance(domains, dict) else domains


def get_shards(wildcards, ending, splits=None):
    """Files of the shards: of all splits, or of those named."""
    shards = config["dataset"][wildcards.dataset]["shards"]
    folder = f"{RESULTS}/{wildcards.dataset}/shards"
    return [f"{folder}/{split}-{i}{ending}" for split in splits or shards for i in range(shards[split])]


def get_embeddings(wildcards, splits=SPLITS):
    """Files of the images' embeddings."""
    shards, clip = config["dataset"][wildcards.dataset]["shards"], config["dataset"][wildcards.dataset]["clip"]
    folder = f"{RESULTS}/{wildcards.dataset}/embeddings/{clip}"
    return [f"{folder}/{split}-{i}.safetensors" for split in splits for i in range(shards[split])]


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
    if "train" in clip:
        return {"model": clip["model"], "pretrained": f"{RESULTS}/clip/{clip_of(wildcards)}/clip.safetensors"}
    return {key: value for key, value in clip.items() if value is not None}


def get_clip_files(wildcards):
    """The files among them: a model that changes makes everything that came of it anew."""
    clip = get_clip(wildcards)
    if "train" in config["clip"][clip_of(wildcards)]:  # not there yet
        return [value for value in clip.values() if is_file_name(value)]
    return list_files(clip["model"], clip.get("pretrained"))


def get_features(wildcards):
    """Features options: a judge trained here, or Inception by its weights."""
    name = config["dataset"][wildcards.dataset]["features"]
    features = config["features"][name]
    if features["kind"] == "judge":
        return {"kind": "judge", "weights": f"{RESULTS}/{wildcards.dataset}/features/{name}/judge.safetensors"}
    return {"kind": "inception", "weights": features["weights"]}


def get_features_files(wildcards):
    return [value for value in [get_features(wildcards)["weights"]] if is_file_name(value)]


def get_real_features(wildcards):
    return f"{RESULTS}/{wildcards.dataset}/features/{config['dataset'][wildcards.dataset]['features']}/test.safetensors"


def is_labelled(wildcards):
    """Does the variant train on pseudo labels?"""
    return VARIANTS[wildcards.variant]["method"] in LABELLED


def learns_prompts(variant):
    """Do the variant's prompts learn? Then the labels change with them."""
    return VARIANTS[variant].get("prompts") == "learned"


def get_labels(wildcards):
    """Files of the label stage that a variant trains on; none where it learns without."""
    if not is_labelled(wildcards):
        return []
    return list_labels(f"{RESULTS}/{wildcards.dataset}/labels/{VARIANTS[wildcards.variant]['labeller']}-n{wildcards.n}")


def get_labels_of_run(wildcards):
    """The labels that go with a trained run: those of its own prompts where these have learned."""
    if not learns_prompts(wildcards.variant):
        return get_labels(wildcards)
    return list_labels(f"{RESULTS}/{wildcards.dataset}/{wildcards.variant}-n{wildcards.n}/seed{wildcards.seed}/labels")


def list_labels(folder):
    return [f"{folder}/train.parquet", f"{folder}/test.parquet", f"{folder}/texts.safetensors"]


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
    return options | {"language": get_language(wildcards)} if is_labelled(wildcards) else options


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


def get_clip_training(wildcards):
    """Options of a small CLIP's training: on captions from the templates of the dataset that it learns from."""
    clip = config["clip"][wildcards.clip]
    options = {key: value for key, value in clip["train"].items() if key != "dataset"}
    return options | {"model": clip["model"], "templates": config["dataset"][clip["train"]["dataset"]]["templates"]}


def get_translation(wildcards):
    """Options of a run's translation: the protocol, the classes and the features."""
    classes = config["dataset"][wildcards.dataset]["classes"]
    return {"protocol": config["evaluate"], "classes": classes, "features": get_features(wildcards)}


def get_scoring(wildcards):
    """Options of a run's scores."""
    return {"protocol": config["evaluate"]}


def get_runs(ending, variants=None):
    """One file of every run of the sweep, or of those of some variants."""
    return [
        f"{RESULTS}/{dataset}/{variant}-n{n}/seed{seed}/{ending}"
        for dataset in config["datasets"]
        for variant in (config["methods"] if variants is None else variants)
        for n in config["domains"]
        for seed in config["seeds"]
    ]


def get_runs_with_learned_prompts(ending):
    return get_runs(ending, list(filter(learns_prompts, config["methods"])))


def get_qualities(wildcards):
    """How good the labels of every labeller are, for every N, and those of prompts that have learned."""
    return [
        f"{RESULTS}/{dataset}/labels/{labeller}-n{n}/quality.json"
        for dataset in config["datasets"]
        for labeller in config["labellers"]
        for n in config["domains"]
    ] + get_runs_with_learned_prompts("labels/quality.json")


def describe_results():
    """Where everything is, to print at the end."""
    return f"""
Tables    {RESULTS}/tables/comparison.md (also .csv and .tex; table1, table2, labels)
Plots     {RESULTS}/plots/
Pictures  {RESULTS}/pictures/
Report    {RESULTS}/report.html
MLflow    {Path(sys.executable).parent / "mlflow"} ui --backend-store-uri {STORE}    then open http://127.0.0.1:5000"""
