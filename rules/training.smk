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
        backbone=one_of(PLAN.runs.backbones_of("trained")),
    priority: 2  # before the triples: it takes several cores, and would wait for them
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["backbone"].threads
    resources:
        **asked("backbone"),
    params:
        spec=lambda wildcards: PLAN.spec_backbone(wildcards.backbone),
    shell:
        stage(
            "training.backbone",
            "--train {input.train:q} --validation {input.validation:q} --out {output:q}",
        )


rule download:
    output:
        f"{ROOT}/models/{{backbone}}/backbone/seed{{seed}}/manifest.json",
    log:
        f"{ROOT}/logs/download/{{backbone}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/download/{{backbone}}/seed{{seed}}.tsv"
    wildcard_constraints:
        backbone=one_of(PLAN.runs.backbones_of("hub", "local", "gguf")),
    conda:
        "../envs/grace.yaml"
    threads: 1
    resources:
        **asked("source", gpu=0),
    params:
        spec=lambda wildcards: PLAN.spec_backbone(wildcards.backbone),
    shell:
        stage("training.download", "--out {output:q}")


# The encoder-only models that the study evaluates, times or mines with.
rule encoder:
    output:
        f"{ROOT}/encoders/{{encoder}}/manifest.json",
    log:
        f"{ROOT}/logs/encoder/{{encoder}}.log",
    benchmark:
        f"{ROOT}/benchmarks/encoder/{{encoder}}.tsv"
    wildcard_constraints:
        encoder=one_of(PLAN.runs.encoders),
    conda:
        "../envs/grace.yaml"
    threads: 1
    resources:
        **asked("source", gpu=0),
    params:
        spec=lambda wildcards: PLAN.spec_encoder(wildcards.encoder),
    shell:
        stage("training.encoder", "--out {output:q}")


# What the frozen backbone writes about the training texts, once for all trainings that learn from it. They lie in the
# store; the output says how many there are.
rule rationales:
    input:
        backbone=lambda wildcards: f"{PLAN.runs.backbone_folder(wildcards.backbone)}/manifest.json",
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
        **asked("rationales"),
    params:
        spec=lambda wildcards: PLAN.spec_rationales(wildcards.data),
        backbone=lambda wildcards: PLAN.runs.backbone_folder(wildcards.backbone),
        store=STORE,
    shell:
        stage(
            "training.rationales",
            "--backbone {params.backbone:q} --rows {input.rows:q} --store {params.store:q} --out {output:q}",
        )


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
        run=one_of(PLAN.runs.trained_runs()),
    priority: 1  # the longest jobs first, and what they wait for, so that short ones fill the gaps at the end
    conda:
        GPU_ENV
    threads: RESOURCES["train"].threads
    resources:
        **asked("train", gpu=lambda wildcards: PLAN.runs.gpus(wildcards.run)),
    params:
        spec=lambda wildcards: PLAN.spec_train(wildcards.run, wildcards.seed, keep_steps(wildcards)),
        backbone=lambda wildcards: PLAN.runs.backbone_folder(wildcards.backbone),
        launch=lambda wildcards: PLAN.runs.launcher(wildcards.run),
        store=STORE,
    shell:
        stage(
            "training.train",
            "--backbone {params.backbone:q} --rows {input.rows:q} --store {params.store:q} --out {output:q}",
            start="{params.launch}",
        )
