# One training per variant, N and seed, in one process or several: gloo on CPUs, NCCL on GPUs.

LEARNED, FROZEN = (
    "|".join(variant for variant in VARIANTS if learns_prompts(variant) == learned) or "(?!)"
    for learned in (True, False)
)


rule train:
    input:
        manifest=results("{dataset}/manifest.parquet"),
        shards=lambda wildcards: get_tars(wildcards, "train"),
        labels=get_labels,
        # Labels that are made anew as prompts learn.
        embeddings=lambda wildcards: get_embeddings(wildcards, ["train"]) if learns_prompts(wildcards.variant) else [],
        clip=lambda wildcards: get_clip_files(wildcards) if get_supervision(wildcards.variant) == "text" else [],
        perceptual=get_perceptual_files,
    # Neither checkpoints nor the log while it grows are outputs: Snakemake would delete them before a run is continued.
    output:
        model=run_file("model.safetensors"),
        run=run_file("run.json"),
        metrics=run_file("metrics.jsonl"),
    log:
        results("logs/train/{dataset}/{variant}-n{n}-seed{seed}.log"),
    benchmark:
        results("benchmarks/train/{dataset}/{variant}-n{n}-seed{seed}.tsv")
    wildcard_constraints:
        variant=FROZEN,
    # The longest first: what is left over at the end is short.
    priority: lambda wildcards: PRIORITY["train" if is_labelled(wildcards.variant) else "short_train"] + int(wildcards.n) / 100
    conda:
        "../../envs/lanit.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
        processes=1,  # on CPUs
        gpu=0,  # a profile says how many: one process each; a job waits for GPUs that no other has
    params:
        options=lambda wildcards: as_json(**get_training(wildcards)),
        labels=get_labels_argument,
        embeddings=lambda wildcards, input: as_argument("--embeddings", input.embeddings),
        folder=subpath(output.run, parent=True),
        track=Told(TRACK),
    message:
        "Train {wildcards.variant} on {wildcards.dataset}, N = {wildcards.n}, seed {wildcards.seed}"
    # The shell becomes the launcher, which thus gets the signal of whoever stops the job and whose status is the job's.
    # What copies its words to log and terminal goes on until it has said the last.
    shell:
        "processes=$(( {resources.gpu} > 0 ? {resources.gpu} : {resources.processes} )); "
        "export OMP_NUM_THREADS=$(( {threads} > processes ? {threads} / processes : 1 )); "
        "exec > >(trap '' INT TERM; tee {log:q} "
        "| awk '{{ print \"[{wildcards.variant} n{wildcards.n} seed{wildcards.seed}]\", $0; fflush() }}') 2>&1; "
        'exec python "$PYTHONPATH/workflow/scripts/lease_gpus.py" {resources.gpu} '
        "python -m lanit.training.launch --standalone --nnodes=1 --nproc-per-node=$processes "
        "-m lanit train --options {params.options:q} --manifest {input.manifest:q} {params.labels:q} "
        "{params.embeddings:q} --output {params.folder:q} --track {params.track:q}"


# Prompts that learn leave their texts, and what became of them.
use rule train as train_prompts with:
    output:
        model=run_file("model.safetensors"),
        run=run_file("run.json"),
        metrics=run_file("metrics.jsonl"),
        texts=run_file("texts.safetensors"),
        prompts=run_file("prompts.json"),
    wildcard_constraints:
        variant=LEARNED,
