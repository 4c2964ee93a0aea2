# Backbones, and what is trained from them. A model is complete when its manifest exists; checkpoints lie
# beside it undeclared, so that a failed job can resume.


rule backbone:
    input:
        train=f"{ROOT}/data/split/{PLAN.study.data.supervised}/train.jsonl",
        validation=f"{ROOT}/data/split/{PLAN.study.data.supervised}/validation.jsonl",
    output:
        f"{ROOT}/models/{{backbone}}/backbone/seed{{seed}}/manifest.json",
    log:
        f"{ROOT}/logs/backbone/{{backbone}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/backbone/{{backbone}}/seed{{seed}}.tsv"
    wildcard_constraints:
        backbone=one_of(PLAN.backbones_of("trained")),
    priority: 2  # before the triples: it takes several cores, and would wait for them
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["backbone"].threads
    resources:
        mem_mb=mem_mb("backbone"),
        runtime=runtime("backbone"),
        gpu=RESOURCES["backbone"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_backbone(wildcards.backbone),
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.training.backbone"
        " --spec {params.spec:q} --threads {threads}"
        " --train {input.train:q} --validation {input.validation:q} --out {output:q} > {log:q} 2>&1"


rule download:
    output:
        f"{ROOT}/models/{{backbone}}/backbone/seed{{seed}}/manifest.json",
    log:
        f"{ROOT}/logs/download/{{backbone}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/download/{{backbone}}/seed{{seed}}.tsv"
    wildcard_constraints:
        backbone=one_of(PLAN.backbones_of("hub", "local", "gguf")),
    conda:
        "../envs/grace.yaml"
    threads: 1
    resources:
        mem_mb=mem_mb("source"),
        runtime=runtime("source"),
        gpu=0,
    params:
        spec=lambda wildcards: PLAN.spec_backbone(wildcards.backbone),
    shell:
        "python -m grace.training.download --spec {params.spec:q} --threads {threads} --out {output:q} > {log:q} 2>&1"


# The encoder-only models that the study evaluates, times or mines with.
rule encoder:
    output:
        f"{ROOT}/encoders/{{encoder}}/manifest.json",
    log:
        f"{ROOT}/logs/encoder/{{encoder}}.log",
    benchmark:
        f"{ROOT}/benchmarks/encoder/{{encoder}}.tsv"
    wildcard_constraints:
        encoder=one_of(PLAN.encoders),
    conda:
        "../envs/grace.yaml"
    threads: 1
    resources:
        mem_mb=mem_mb("source"),
        runtime=runtime("source"),
        gpu=0,
    params:
        spec=lambda wildcards: PLAN.spec_encoder(wildcards.encoder),
    shell:
        "python -m grace.training.encoder --spec {params.spec:q} --threads {threads} --out {output:q} > {log:q} 2>&1"


# What the frozen backbone writes about the training texts, once for all trainings that learn from it. They lie in the
# store; the output says how many there are.
rule rationales:
    input:
        backbone=lambda wildcards: f"{PLAN.backbone_folder(wildcards.backbone)}/manifest.json",
        rows=f"{ROOT}/data/rows/{{backbone}}/{{data}}.jsonl",
    output:
        f"{ROOT}/data/rationales/{{backbone}}/{{data}}.json",
    log:
        f"{ROOT}/logs/rationales/{{backbone}}/{{data}}.log",
    benchmark:
        f"{ROOT}/benchmarks/rationales/{{backbone}}/{{data}}.tsv"
    priority: 1
    conda:
        GPU_ENV
    threads: RESOURCES["rationales"].threads
    resources:
        mem_mb=mem_mb("rationales"),
        runtime=runtime("rationales"),
        gpu=RESOURCES["rationales"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_rationales(wildcards.data),
        backbone=lambda wildcards: PLAN.backbone_folder(wildcards.backbone),
        store=STORE,
    shell:
        "python -m grace.gpus {resources.gpu} -- python -m grace.training.rationales"
        " --spec {params.spec:q} --threads {threads}"
        " --backbone {params.backbone:q} --rows {input.rows:q} --store {params.store:q}"
        " --out {output:q} > {log:q} 2>&1"


rule train:
    input:
        unpack(lambda wildcards: PLAN.train_inputs(wildcards.backbone, wildcards.run)),
    output:
        f"{ROOT}/models/{{backbone}}/{{run}}/seed{{seed}}/manifest.json",
    log:
        f"{ROOT}/logs/train/{{backbone}}/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/train/{{backbone}}/{{run}}/seed{{seed}}.tsv"
    wildcard_constraints:
        run=one_of(PLAN.trained_runs()),
    priority: 1  # the longest jobs first, and what they wait for, so that short ones fill the gaps at the end
    conda:
        GPU_ENV
    threads: RESOURCES["train"].threads
    resources:
        mem_mb=mem_mb("train"),
        runtime=runtime("train"),
        gpu=lambda wildcards: PLAN.gpus(wildcards.run),
    params:
        spec=lambda wildcards: PLAN.spec_train(
            wildcards.run, wildcards.seed, keep_steps(wildcards)
        ),
        backbone=lambda wildcards: PLAN.backbone_folder(wildcards.backbone),
        launch=lambda wildcards: PLAN.launcher(wildcards.run),
        store=STORE,
    shell:
        "python -m grace.gpus {resources.gpu} -- {params.launch} -m grace.training.train"
        " --spec {params.spec:q} --threads {threads}"
        " --backbone {params.backbone:q} --rows {input.rows:q} --store {params.store:q}"
        " --out {output:q} > {log:q} 2>&1"
