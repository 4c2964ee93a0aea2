# GRACE from data to tables. config.yaml and studies/ say what is built, `grace.config.study` turns them into runs and paths.
#
#   snakemake --cores all                          the embedded demo, no GPU, no download
#   snakemake --cores all --config study=paper     the paper
#   snakemake table1                               one table and what it needs; figure1 ... alike
#   snakemake paper_items                          every table and figure but the trade-off's, ablations too
#   snakemake --config ablations=true              all of these, with the report; tradeoff=true adds its own
#   snakemake --until train                        the models only
#   snakemake -n                                   what would be done
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        exhibits("table"),
        exhibits("figure"),
        f"{ROOT}/report.html",


onsuccess:
    pages = [f"{ROOT}/{name}" for name in ("report.html", "claims.md", "audit.md", "plan.md")]
    each = [f"{ROOT}/tables/{name}.md" for name in PLAN.study.tables]
    each += [f"{ROOT}/figures/{name}.svg" for name in PLAN.study.figures]
    made = [path for path in pages + each if os.path.exists(path) and os.path.getmtime(path) >= STARTED]
    print("\n" + "\n".join(path for path in made if path in pages or pages[0] not in made) + "\n")
