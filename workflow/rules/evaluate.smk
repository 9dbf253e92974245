# Translations, the features of what is real and what is made, and scores under one protocol.


rule train_judge:
    input:
        manifest=results("{dataset}/manifest.parquet"),
        card=results("{dataset}/dataset.json"),
        shards=lambda wildcards: get_tars(wildcards, "pretrain"),
    output:
        results("{dataset}/features/{features}/judge.safetensors"),
    log:
        results("logs/train_judge/{dataset}/{features}.log"),
    priority: PRIORITY["judge"]
    conda:
        "../../envs/lanit.yaml"
    resources:
        mem_mb=3000,
    params:
        options=lambda wildcards: as_json(**config["features"][wildcards.features]["train"]),
    message:
        "{wildcards.dataset}: train the judge {wildcards.features}"
    shell:
        "python -m lanit evaluate judge --options {params.options:q} "
        "--manifest {input.manifest:q} --output {output:q} 2>&1 | tee {log:q}"


rule extract_features:
    input:
        features=get_features_files,
        manifest=results("{dataset}/manifest.parquet"),
        shards=lambda wildcards: get_tars(wildcards, wildcards.split),
    output:
        results("{dataset}/features/{features}/{split}.safetensors"),
    log:
        results("logs/extract_features/{dataset}/{features}-{split}.log"),
    priority: PRIORITY["embed"]
    conda:
        "../../envs/lanit.yaml"
    params:
        features=lambda wildcards: as_json(**get_features(wildcards)),
    message:
        "{wildcards.dataset}: features of the real images of split {wildcards.split}"
    shell:
        "python -m lanit evaluate features --features {params.features:q} "
        "--manifest {input.manifest:q} --split {wildcards.split} --output {output:q} &> {log:q}"


rule translate:
    input:
        model=run_file("model.safetensors"),
        run=run_file("run.json"),
        manifest=results("{dataset}/manifest.parquet"),
        shards=lambda wildcards: get_tars(wildcards, config["evaluate"]["split"]),
        labels=get_labels_of_run,
        features=get_features_files,
    output:
        translations=run_file("translations.safetensors"),
        pictures=run_file("pictures.npz"),
    log:
        results("logs/translate/{dataset}/{variant}-n{n}-seed{seed}.log"),
    priority: PRIORITY["score"]
    conda:
        "../../envs/lanit.yaml"
    resources:
        mem_mb=3000,
    params:
        options=lambda wildcards: as_json(**get_translation(wildcards)),
        labels=get_labels_argument,
        folder=subpath(input.run, parent=True),
    message:
        "Translate with {wildcards.variant} on {wildcards.dataset}, N = {wildcards.n}, seed {wildcards.seed}"
    shell:
        "python -m lanit translate --run {params.folder:q} --manifest {input.manifest:q} "
        "{params.labels:q} --options {params.options:q} --output {output.translations:q} "
        "--pictures {output.pictures:q} 2>&1 | tee {log:q}"


rule score:
    input:
        translations=run_file("translations.safetensors"),
        run=run_file("run.json"),
        real=get_real_features,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        run_file("scores.json"),
    log:
        results("logs/score/{dataset}/{variant}-n{n}-seed{seed}.log"),
    priority: PRIORITY["score"]
    conda:
        "../../envs/lanit.yaml"
    params:
        track=Told(TRACK),
        options=lambda wildcards: as_json(**get_scoring(wildcards)),
        folder=subpath(input.run, parent=True),
    message:
        "Score {wildcards.variant} on {wildcards.dataset}, N = {wildcards.n}, seed {wildcards.seed}"
    shell:
        "python -m lanit evaluate scores --translations {input.translations:q} "
        "--real {input.real:q} --manifest {input.manifest:q} --run {params.folder:q} "
        "--options {params.options:q} --output {output:q} --track {params.track:q} &> {log:q}"


# Other systems: what they are asked to translate, asked for by name alone, and what they gave back.


rule export_pairs:
    input:
        manifest=results("{dataset}/manifest.parquet"),
        shards=lambda wildcards: get_tars(wildcards, config["evaluate"]["split"]),
    output:
        directory(results("{dataset}/pairs")),
    log:
        results("logs/export_pairs/{dataset}.log"),
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_pairs(wildcards)),
    message:
        "{wildcards.dataset}: write the pairs that other systems are to translate"
    shell:
        "python -m lanit evaluate pairs --manifest {input.manifest:q} --options {params.options:q} "
        "--output {output:q} 2>&1 | tee {log:q}"


rule read_external:
    input:
        unpack(get_external_files),
        manifest=results("{dataset}/manifest.parquet"),
        card=results("{dataset}/dataset.json"),
        shards=lambda wildcards: get_tars(wildcards, config["evaluate"]["split"]),
        features=get_features_files,
    output:
        run=results("{dataset}/external/{external}/run.json"),
        translations=results("{dataset}/external/{external}/translations.safetensors"),
        pictures=results("{dataset}/external/{external}/pictures.npz"),
    log:
        results("logs/read_external/{dataset}/{external}.log"),
    priority: PRIORITY["score"]
    conda:
        "../../envs/lanit.yaml"
    resources:
        mem_mb=3000,
    params:
        options=lambda wildcards: as_json(**get_external(wildcards)),
        state=get_external_state,
        table=lambda wildcards, input: as_argument("--table", input.table),
        folder=subpath(output.run, parent=True),
    message:
        "Read the translations that {wildcards.external} made of {wildcards.dataset}"
    shell:
        "python -m lanit evaluate external --images {input.images:q} {params.table:q} --manifest {input.manifest:q} "
        "--options {params.options:q} --output {params.folder:q} 2>&1 | tee {log:q}"


use rule score as score_external with:
    input:
        translations=results("{dataset}/external/{external}/translations.safetensors"),
        run=results("{dataset}/external/{external}/run.json"),
        real=get_real_features,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        results("{dataset}/external/{external}/scores.json"),
    log:
        results("logs/score_external/{dataset}/{external}.log"),
    message:
        "Score {wildcards.external} on {wildcards.dataset}"
