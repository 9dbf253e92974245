# Translations, the features of what is real and what is made, and scores under one protocol.


rule train_judge:
    input:
        manifest=results("{dataset}/manifest.parquet"),
        card=results("{dataset}/dataset.json"),
    output:
        results("{dataset}/features/{features}/judge.safetensors"),
    log:
        results("logs/train_judge/{dataset}/{features}.log"),
    priority: 85
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
        shards=lambda wildcards: get_shards(wildcards, ".tar", [wildcards.split]),
    output:
        results("{dataset}/features/{features}/{split}.safetensors"),
    log:
        results("logs/extract_features/{dataset}/{features}-{split}.log"),
    priority: 80
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
        model=results("{dataset}/{variant}-n{n}/seed{seed}/model.safetensors"),
        run=results("{dataset}/{variant}-n{n}/seed{seed}/run.json"),
        manifest=results("{dataset}/manifest.parquet"),
        labels=get_labels_of_run,
        features=get_features_files,
    output:
        translations=results("{dataset}/{variant}-n{n}/seed{seed}/translations.safetensors"),
        pictures=results("{dataset}/{variant}-n{n}/seed{seed}/pictures.npz"),
    log:
        results("logs/translate/{dataset}/{variant}-n{n}-seed{seed}.log"),
    priority: 20
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
        translations=results("{dataset}/{variant}-n{n}/seed{seed}/translations.safetensors"),
        run=results("{dataset}/{variant}-n{n}/seed{seed}/run.json"),
        real=get_real_features,
        manifest=results("{dataset}/manifest.parquet"),
    output:
        results("{dataset}/{variant}-n{n}/seed{seed}/scores.json"),
    log:
        results("logs/score/{dataset}/{variant}-n{n}-seed{seed}.log"),
    priority: 20
    conda:
        "../../envs/lanit.yaml"
    params:
        options=lambda wildcards: as_json(**get_scoring(wildcards)),
        folder=subpath(input.run, parent=True),
    message:
        "Score {wildcards.variant} on {wildcards.dataset}, N = {wildcards.n}, seed {wildcards.seed}"
    shell:
        "python -m lanit evaluate scores --translations {input.translations:q} "
        "--real {input.real:q} --manifest {input.manifest:q} --run {params.folder:q} "
        "--options {params.options:q} --output {output:q} --track {TRACK:q} &> {log:q}"
