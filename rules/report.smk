# The paper's tables and figures, ours beside the printed numbers, the audit of those, and one page that holds it all.


rule tables:
    input:
        lambda wildcards: results(PLAN.table_inputs(wildcards.table)),
    output:
        csv=f"{ROOT}/tables/{{table}}.csv",
        md=f"{ROOT}/tables/{{table}}.md",
        tex=f"{ROOT}/tables/{{table}}.tex",
        record=f"{ROOT}/tables/{{table}}.json",
        html=report(
            f"{ROOT}/tables/{{table}}.html",
            caption="captions/table.rst",
            category=f"Study: {PLAN.study.title}",
            subcategory="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{ROOT}/logs/tables/{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/tables/{{table}}.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["tables"].threads
    resources:
        **asked("tables"),
    params:
        spec=lambda wildcards: packed(PLAN.spec_tables(wildcards.table)),
        printed=PRINTED,
        found=lambda wildcards: found(PLAN.table_inputs(wildcards.table)),
        caption=lambda wildcards: PLAN.study.tables[wildcards.table].caption,
    shell:
        stage(
            "report.tables",
            "--csv {output.csv:q} --md {output.md:q} --tex {output.tex:q} --record {output.record:q} --html {output.html:q}",
        )


rule figures:
    input:
        lambda wildcards: results(PLAN.figure_inputs(wildcards.figure)),
    output:
        csv=f"{ROOT}/figures/{{figure}}.csv",
        png=f"{ROOT}/figures/{{figure}}.png",
        record=f"{ROOT}/figures/{{figure}}.json",
        svg=report(
            f"{ROOT}/figures/{{figure}}.svg",
            caption="captions/figure.rst",
            category=f"Study: {PLAN.study.title}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{ROOT}/logs/figures/{{figure}}.log",
    benchmark:
        f"{ROOT}/benchmarks/figures/{{figure}}.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["tables"].threads
    resources:
        **asked("tables"),
    params:
        spec=lambda wildcards: packed(PLAN.spec_figures(wildcards.figure)),
        printed=PRINTED,
        found=lambda wildcards: found(PLAN.figure_inputs(wildcards.figure)),
        caption=lambda wildcards: PLAN.study.figures[wildcards.figure].caption,
    shell:
        stage(
            "report.figures",
            "--csv {output.csv:q} --svg {output.svg:q} --png {output.png:q} --record {output.record:q}",
        )


# Each table and figure by its name: snakemake table1; `tradeoff` brings its effects and its figure along.
for _form, _names in (("table", PLAN.study.tables), ("figure", PLAN.study.figures)):
    for _name in _names:

        rule:
            name:
                _name
            input:
                [exhibits(*one) for one in PLAN.together(_form, _name)],


rule paper_items:
    input:
        exhibits("table", *PLAN.of_the_paper("table")),
        exhibits("figure", *PLAN.of_the_paper("figure")),


# All scores without what shows them. `--until evaluate` would leave out those that pool another evaluation's rationales.
rule evaluations:
    input:
        PLAN.evaluations(),


# What is wrong in the printed numbers; needs no result: snakemake audit
rule audit:
    output:
        md=f"{ROOT}/audit.md",
        json=f"{ROOT}/audit.json",
    log:
        f"{ROOT}/logs/audit.log",
    benchmark:
        f"{ROOT}/benchmarks/audit.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["report"].threads
    resources:
        **asked("report"),
    params:
        spec=lambda wildcards: PLAN.spec_audit(),
        printed=PRINTED,
    shell:
        stage("report.audit", "--md {output.md:q} --json {output.json:q}")


# What the paper claims, and what came out here: snakemake claims
rule claims:
    input:
        results(PLAN.claim_inputs()),
    output:
        md=f"{ROOT}/claims.md",
        json=f"{ROOT}/claims.json",
    log:
        f"{ROOT}/logs/claims.log",
    benchmark:
        f"{ROOT}/benchmarks/claims.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["tables"].threads
    resources:
        **asked("tables"),
    params:
        spec=packed(PLAN.spec_claims()),
        printed=PRINTED,
        found=found(PLAN.claim_inputs()),
    shell:
        stage("report.claims", "--md {output.md:q} --json {output.json:q}")


rule report:
    input:
        exhibits("table"),
        exhibits("figure"),
        audit=f"{ROOT}/audit.json",
        claims=f"{ROOT}/claims.json",
    output:
        f"{ROOT}/report.html",
    log:
        f"{ROOT}/logs/report.log",
    benchmark:
        f"{ROOT}/benchmarks/report.tsv"
    conda:
        "../envs/grace.yaml"
    threads: RESOURCES["report"].threads
    resources:
        **asked("report"),
    params:
        spec=lambda wildcards: PLAN.spec_page(),
        records=lambda wildcards, input: [path for path in input[:-2] if path.endswith(".json")],
    shell:
        stage(
            "report.report",
            "--audit {input.audit:q} --claims {input.claims:q} --records {params.records:q} --out {output:q}",
        )


# What the study will take, before it is started: snakemake plan
rule plan:
    output:
        md=f"{ROOT}/plan.md",
        json=f"{ROOT}/plan.json",
    log:
        f"{ROOT}/logs/plan.log",
    benchmark:
        f"{ROOT}/benchmarks/plan.tsv"
    conda:
        "../envs/grace.yaml"
    threads: 1
    resources:
        **asked("tables", gpu=0),
    params:
        # A function: snakemake would take {text} of a prompt for a wildcard.
        spec=lambda wildcards: packed(PLAN.spec_plan()),
    shell:
        stage("report.plan", "--out {output.md:q}", said="2> {log:q}")
