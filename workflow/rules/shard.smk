# Images → WebDataset tars of a fixed number, one manifest, and what was left out. What is to be said of the images is put on
# the terminal, too, when all went well; of a job that failed Snakemake shows the log.


rule plan_shards:
    output:
        results("{dataset}/shards/plan.parquet"),
    log:
        results("logs/plan_shards/{dataset}.log"),
    priority: PRIORITY["shards"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_sharding(wildcards)),
        scored=get_scored,
    message:
        "{wildcards.dataset}: list the images and assign splits and shards"
    shell:
        "python -m lanit shard plan --options {params.options:q} --scored {params.scored:q} "
        "--output {output:q} &> {log:q} && cat {log:q}"


rule write_shard:
    input:
        results("{dataset}/shards/plan.parquet"),
    output:
        tar=results("{dataset}/shards/{split}-{shard}.tar"),
        index=results("{dataset}/shards/{split}-{shard}.parquet"),
    log:
        results("logs/write_shard/{dataset}/{split}-{shard}.log"),
    priority: PRIORITY["shards"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_sharding(wildcards)),
    message:
        "{wildcards.dataset}: write shard {wildcards.split}-{wildcards.shard}"
    shell:
        "python -m lanit shard write --plan {input:q} --options {params.options:q} --split {wildcards.split} "
        "--shard {wildcards.shard} --output {output.tar:q} --index {output.index:q} &> {log:q}"


rule index_shards:
    input:
        plan=results("{dataset}/shards/plan.parquet"),
        indices=lambda wildcards: get_shards(wildcards, ".parquet"),
    output:
        manifest=results("{dataset}/manifest.parquet"),
        quarantine=results("{dataset}/quarantine.csv"),
        card=results("{dataset}/dataset.json"),
    log:
        results("logs/index_shards/{dataset}.log"),
    priority: PRIORITY["shards"]
    conda:
        "../../envs/lanit.yaml"
    params:
        scored=get_scored,
    message:
        "{wildcards.dataset}: gather the manifest"
    shell:
        "python -m lanit shard index --plan {input.plan:q} --indices {input.indices:q} --manifest {output.manifest:q} "
        "--quarantine {output.quarantine:q} --card {output.card:q} --scored {params.scored:q} &> {log:q} && cat {log:q}"
