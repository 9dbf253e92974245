# CLIP's view of texts and images, once per (shard, CLIP) for a whole sweep.


rule train_clip:
    input:
        manifest=lambda wildcards: f"{RESULTS}/{config['clip'][wildcards.clip]['train']['dataset']}/manifest.parquet",
        shards=get_clip_tars,
        model=lambda wildcards: [name for name in [config["clip"][wildcards.clip]["model"]] if is_file_name(name)],
    output:
        results("clip/{clip}/clip.safetensors"),
    log:
        results("logs/train_clip/{clip}.log"),
    priority: PRIORITY["clip"]
    conda:
        "../../envs/lanit.yaml"
    threads: 2
    resources:
        mem_mb=3000,
    params:
        options=lambda wildcards: as_json(**get_clip_training(wildcards)),
    message:
        "Train the small CLIP {wildcards.clip} on captions"
    shell:
        "python -m lanit embed clip --options {params.options:q} "
        "--manifest {input.manifest:q} --output {output:q} 2>&1 | tee {log:q}"


rule embed_texts:
    input:
        clip=get_clip_files,
    output:
        results("{dataset}/embeddings/{clip}/{texts}.safetensors"),
    log:
        results("logs/embed_texts/{dataset}/{clip}-{texts}.log"),
    priority: PRIORITY["embed"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(
            clip=get_clip(wildcards),
            domains=get_all_domains(wildcards),
            templates=get_templates(wildcards, wildcards.texts.removeprefix("texts").removeprefix("-")),
        ),
    message:
        "{wildcards.dataset}: embed the domains' names with CLIP {wildcards.clip}"
    shell:
        "python -m lanit embed texts --options {params.options:q} " "--output {output:q} &> {log:q}"


rule embed_images:
    input:
        clip=get_clip_files,
        shard=results("{dataset}/shards/{split}-{shard}.tar"),
    output:
        results("{dataset}/embeddings/{clip}/{split}-{shard}.safetensors"),
    log:
        results("logs/embed_images/{dataset}/{clip}/{split}-{shard}.log"),
    priority: PRIORITY["embed"]
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(clip=get_clip(wildcards)),
    message:
        "{wildcards.dataset}: embed shard {wildcards.split}-{wildcards.shard} with CLIP {wildcards.clip}"
    shell:
        "python -m lanit embed images --options {params.options:q} "
        "--shard {input.shard:q} --output {output:q} &> {log:q}"
