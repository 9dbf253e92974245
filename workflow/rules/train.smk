# One training per method, N and seed, through torchrun: gloo on CPUs, NCCL on GPUs.


rule train:
    input:
        manifest=results("{dataset}/manifest.parquet"),
        labels=get_labels,
        clip=lambda wildcards: get_clip_files(wildcards) if wildcards.method in LABELLED else [],
        store=ancient(results("mlflow.json")),
    # Neither the checkpoint nor the log of metrics is an output: Snakemake would delete them before a run is continued.
    output:
        model=results("{dataset}/{method}-n{n}/seed{seed}/model.safetensors"),
        run=results("{dataset}/{method}-n{n}/seed{seed}/run.json"),
    params:
        options=lambda wildcards: as_json(**get_training(wildcards)),
        labels=get_labels_argument,
        folder=subpath(output.run, parent=True),
    log:
        results("logs/train/{dataset}/{method}-n{n}-seed{seed}.log"),
    conda:
        "../../envs/lanit.yaml"
    # The longest first: what is left over at the end is short.
    priority: lambda wildcards: (60 if wildcards.method in LABELLED else 40) + int(wildcards.n) / 100
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
        processes=1,  # on CPUs
        gpu=0,  # one process each
    message:
        "Train {wildcards.method} on {wildcards.dataset}, N = {wildcards.n}, seed {wildcards.seed}"
    shell:
        "processes=$(( {resources.gpu} > 0 ? {resources.gpu} : {resources.processes} )); "
        "export OMP_NUM_THREADS=$(( {threads} > processes ? {threads} / processes : 1 )); "
        "python \"$PYTHONPATH/workflow/scripts/lease_gpus.py\" {resources.gpu} "
        "python -m torch.distributed.run --standalone --nproc-per-node=$processes "
        "-m lanit train --options {params.options:q} --manifest {input.manifest:q} {params.labels:q} "
        "--output {params.folder:q} --track {input.store:q} 2>&1 "
        "| tee {log:q} | awk '{{ print \"[{wildcards.method} n{wildcards.n} seed{wildcards.seed}]\", $0; fflush() }}'"
