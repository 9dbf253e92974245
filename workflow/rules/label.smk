# Cosines against a threshold: multi-hot pseudo labels, and how good they are.

AWAITED = {VARIANTS[variant].get("labeller") for variant in config["methods"]}
# A rule's output is the same for all datasets, and not all have a val split: each of these two rules has a twin.
WITH_VAL, WITHOUT_VAL = (
    "|".join(name for name, dataset in config["dataset"].items() if ("val" in dataset["shards"]) == there) or "(?!)"
    for there in (True, False)
)


TRUE, PSEUDO = (
    "|".join(name for name, labeller in config["labellers"].items() if (labeller["kind"] == "truth") == there) or "(?!)"
    for there in (True, False)
)


rule label:
    input:
        texts=get_texts,
        embeddings=get_embeddings,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        train=results("{dataset}/labels/{labeller}-n{n}/train.parquet"),
        val=results("{dataset}/labels/{labeller}-n{n}/val.parquet"),
        test=results("{dataset}/labels/{labeller}-n{n}/test.parquet"),
        texts=results("{dataset}/labels/{labeller}-n{n}/texts.safetensors"),
        quality=results("{dataset}/labels/{labeller}-n{n}/quality.json"),
    log:
        results("logs/label/{dataset}/{labeller}-n{n}.log"),
    wildcard_constraints:
        dataset=WITH_VAL,
        labeller=PSEUDO,
    # The labels that a training waits for come first.
    priority: lambda wildcards: PRIORITY["labels"] if wildcards.labeller in AWAITED else PRIORITY["report"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_labelling(wildcards, wildcards.labeller)),
        folder=subpath(output.quality, parent=True),
    message:
        "{wildcards.dataset}: pseudo labels for N = {wildcards.n}, {wildcards.labeller}"
    shell:
        "python -m lanit label --options {params.options:q} --texts {input.texts:q} --embeddings {input.embeddings:q} "
        "--manifest {input.manifest:q} --output {params.folder:q} &> {log:q}"


use rule label as label_without_val with:
    output:
        train=results("{dataset}/labels/{labeller}-n{n}/train.parquet"),
        test=results("{dataset}/labels/{labeller}-n{n}/test.parquet"),
        texts=results("{dataset}/labels/{labeller}-n{n}/texts.safetensors"),
        quality=results("{dataset}/labels/{labeller}-n{n}/quality.json"),
    wildcard_constraints:
        dataset=WITHOUT_VAL,
        labeller=PSEUDO,


# For methods that learn with supervision, and for no other.
rule label_by_truth:
    input:
        manifest=results("{dataset}/manifest.parquet"),
    output:
        train=results("{dataset}/labels/{labeller}-n{n}/train.parquet"),
        val=results("{dataset}/labels/{labeller}-n{n}/val.parquet"),
        test=results("{dataset}/labels/{labeller}-n{n}/test.parquet"),
        quality=results("{dataset}/labels/{labeller}-n{n}/quality.json"),
    log:
        results("logs/label/{dataset}/{labeller}-n{n}.log"),
    wildcard_constraints:
        dataset=WITH_VAL,
        labeller=TRUE,
    priority: PRIORITY["labels"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_labelling(wildcards, wildcards.labeller)),
        folder=subpath(output.quality, parent=True),
    message:
        "{wildcards.dataset}: labels of truth for N = {wildcards.n}, {wildcards.labeller}"
    shell:
        "python -m lanit label --options {params.options:q} "
        "--manifest {input.manifest:q} --output {params.folder:q} &> {log:q}"


use rule label_by_truth as label_by_truth_without_val with:
    output:
        train=results("{dataset}/labels/{labeller}-n{n}/train.parquet"),
        test=results("{dataset}/labels/{labeller}-n{n}/test.parquet"),
        quality=results("{dataset}/labels/{labeller}-n{n}/quality.json"),
    wildcard_constraints:
        dataset=WITHOUT_VAL,
        labeller=TRUE,


# The labels of a run whose prompts have learned, by these: its references are translated with them.
rule relabel:
    input:
        run=run_file("run.json"),
        embeddings=get_embeddings,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        train=run_file("labels/train.parquet"),
        val=run_file("labels/val.parquet"),
        test=run_file("labels/test.parquet"),
        texts=run_file("labels/texts.safetensors"),
        quality=run_file("labels/quality.json"),
    log:
        results("logs/relabel/{dataset}/{variant}-n{n}-seed{seed}.log"),
    wildcard_constraints:
        dataset=WITH_VAL,
    priority: PRIORITY["score"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_labelling(wildcards, VARIANTS[wildcards.variant]["labeller"])),
        # Not an input: not every training leaves it, so that it is no output of the rule.
        texts=lambda wildcards, input: f"{Path(input.run).parent}/texts.safetensors",
        folder=subpath(output.quality, parent=True),
    message:
        "Label {wildcards.dataset} by the prompts of {wildcards.variant}, N = {wildcards.n}, seed {wildcards.seed}"
    shell:
        "python -m lanit label --options {params.options:q} --texts {params.texts:q} --embeddings {input.embeddings:q} "
        "--manifest {input.manifest:q} --output {params.folder:q} &> {log:q}"


use rule relabel as relabel_without_val with:
    output:
        train=run_file("labels/train.parquet"),
        test=run_file("labels/test.parquet"),
        texts=run_file("labels/texts.safetensors"),
        quality=run_file("labels/quality.json"),
    wildcard_constraints:
        dataset=WITHOUT_VAL,
