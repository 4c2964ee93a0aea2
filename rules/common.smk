# From config.yaml to the plan of a study. Everything here is known before the first job.
import hashlib
import json
import os
import re
import shlex
import sys
import time

sys.path.insert(0, workflow.basedir)

from grace import warm
from grace.merging import with_studies
from grace.section import UserError, packed
from grace.study import Plan

try:
    PLAN = Plan(with_studies(config))
except UserError as error:
    sys.exit(f"error: {error}")

ROOT = PLAN.root
STARTED = time.time()
RESOURCES = PLAN.study.resources
with open(f"{workflow.basedir}/grace/paper/printed.csv", "rb") as _handle:
    PRINTED = hashlib.sha256(_handle.read()).hexdigest()  # what the paper prints
STORE = f"{ROOT}/store"  # rationales and embeddings, by content

# A conda environment holds the packages but not the project.
shell.prefix(
    "set -euo pipefail; export PYTHONPATH="
    + shlex.quote(workflow.basedir)
    + "${{PYTHONPATH:+:$PYTHONPATH}}; "  # braces doubled: the prefix is formatted too
)


onstart:
    # A group adds up the GPUs of its jobs, and each of them then sees all.
    for name in workflow.group_settings.overwrite_groups:
        if name in RESOURCES and RESOURCES[name].gpu:
            sys.exit(
                f"error: --groups: {name} asks for GPUs, which a group would add up; leave it out."
            )
    if PLAN.study.minutes:
        print(
            f"{PLAN.study.title}: {PLAN.study.minutes} minutes on 2 cores, {workflow.cores} are used.",
            file=sys.stderr,
        )
    if workflow.local_exec:
        warm.start()


# Jobs on GPUs share an environment, with vLLM where it is an engine of the study.
GPU_ENV = f"../envs/{'vllm' if PLAN.vllm() else 'grace'}.yaml"


def one_of(names):
    """Regular expression of exactly these names; of none, one that never matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    source=one_of(PLAN.sources),
    data="supervised|unsupervised",
    backbone=one_of(PLAN.backbones),
    run=one_of(PLAN.study.runs),
    seed=r"\d+",
    group=one_of(PLAN.study.evaluation.groups),
    table=one_of(PLAN.study.tables),
    figure=one_of(PLAN.study.figures),


def mem_mb(rule_name):
    """Memory of a rule; a retried job gets more."""
    return lambda wildcards, attempt: RESOURCES[rule_name].mem_mb * attempt


def runtime(rule_name):
    return lambda wildcards, attempt: RESOURCES[rule_name].runtime * attempt


FORMS = {  # what an exhibit is written as
    "table": ("csv", "md", "tex", "html", "json"),
    "figure": ("csv", "svg", "png", "json"),
}


def exhibits(form, *names):
    """Paths of these tables or figures, or of all that are made unasked."""
    return expand(
        f"{ROOT}/{form}s/{{name}}.{{ending}}",
        name=names or PLAN.wanted(form),
        ending=FORMS[form],
    )


def results(paths):
    """Result files that a table or figure waits for; with `partial` none, it takes what is there."""
    return [] if PLAN.partial else paths


def found(paths):
    """With `partial`, a parameter that changes when one of these files comes or changes."""
    if not PLAN.partial:
        return None
    return {path: os.path.getmtime(path) for path in paths if os.path.exists(path)}


def keep_steps(wildcards):
    """Steps whose weights a training keeps. Those that it has kept stay, so that asking for fewer retrains nothing."""
    wanted = PLAN.keep_steps(wildcards.run)
    path = (
        f"{PLAN.model(wildcards.backbone, wildcards.run, wildcards.seed)}/manifest.json"
    )
    if not os.path.exists(path):
        return wanted
    with open(path) as handle:
        kept = json.load(handle)["settings"].get("keep_steps", [])
    return kept if set(wanted) <= set(kept) else wanted
