# The paper's tables, ours beside the printed numbers, and one page that holds them.


rule tables:
    input:
        lambda wildcards: [
            path for cell in PLAN.cells(wildcards.table) for path in cell.results
        ],
    output:
        csv=f"{ROOT}/tables/{{table}}.csv",
        md=f"{ROOT}/tables/{{table}}.md",
        record=f"{ROOT}/tables/{{table}}.json",
        html=report(
            f"{ROOT}/tables/{{table}}.html",
            caption="captions/table.rst",
            category=f"Study: {PLAN.study.title}",
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
        mem_mb=mem_mb("tables"),
        runtime=runtime("tables"),
        gpu=RESOURCES["tables"].gpu,
    params:
        spec=lambda wildcards: PLAN.spec_tables(wildcards.table),
        caption=lambda wildcards: PLAN.study.tables[wildcards.table].caption,
    shell:
        "python -m grace.report.tables --spec {params.spec:q} --threads {threads} --csv {output.csv:q}"
        " --md {output.md:q} --record {output.record:q} --html {output.html:q} > {log:q} 2>&1"


# Each table by its name: snakemake table1
for _table in PLAN.study.tables:

    rule:
        name:
            _table
        input:
            tables(_table),


rule report:
    input:
        [f"{ROOT}/tables/{name}.html" for name in PLAN.study.tables],
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
        mem_mb=mem_mb("report"),
        runtime=runtime("report"),
        gpu=RESOURCES["report"].gpu,
    params:
        spec=PLAN.spec_page(),
        snakefile=f"{workflow.basedir}/Snakefile",
    shell:
        "python -m grace.report.report --spec {params.spec:q} --threads {threads} --snakefile {params.snakefile:q}"
        " --pages {input:q} --out {output:q} > {log:q} 2>&1"


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
        mem_mb=mem_mb("tables"),
        runtime=runtime("tables"),
        gpu=0,
    params:
        spec=PLAN.spec_plan(),
    shell:
        "python -m grace.report.plan --spec {params.spec:q} --threads {threads} --out {output.md:q} 2> {log:q}"
