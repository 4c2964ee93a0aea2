"""A study small enough to work out by hand, and the specs of the configured ones."""

import copy
from pathlib import Path

from grace.config.plan import Plan
from grace.config.studies import read_config

ROOT = Path(__file__).parents[2]
CONFIG = read_config(ROOT / "config.yaml")

# A backbone for arithmetic by hand, d = 2 heads x 4 = 8. Its layer: q 64, k 32, v 32, o 64, three of 128, two norms
# 16, biases 16, together 608; with the last norm 616; embeddings 100 x 8 = 800; together 1,416.
SMALL = {
    "kind": "hub", "id": "x/y", "layers": 1, "width": 8, "heads": 2, "kv_heads": 1, "head_width": 4,
    "feed_forward": 16, "vocab_size": 100,
}  # fmt: skip
# 5e11 operations and 5e8 bytes a second; steps without overhead, but where a test adds it.
HARDWARE = {
    "gpus": 2, "memory_gb": 1, "tflops": 1, "bandwidth_tb": 0.001, "compute_share": 0.5, "decode_share": 0.5,
    "rationale_tokens": 50, "characters_per_token": 5, "step_overhead_ms": 0, "vllm_step_overhead_ms": 0,
}  # fmt: skip
# An instruction of 35 characters: 7 tokens, and 15 of the template. A query of 60 characters then has 34 tokens, a
# passage of 500 has 122; of 1,000 rows 1 % are held out.
LORA = {"rank": 2, "alpha": 4}
WHOLE = {"settings": {"grace": {"max_steps": None}}}  # as long as the run that is varied
HAND = {
    "title": "By hand",
    "backbones": ["small"],
    "prompt": {"instruction": "i" * 35},
    "generation": {"max_new_tokens": 60},
    "grace": {
        "instances": 10, "rollouts": 2, "rollouts_per_forward": 2, "processes": 1, "engine": "transformers",
        "gradient_checkpointing": False,
    },
    "cl": {"batch_size": 10, "mini_batch_size": 10, "processes": 1},
    "simcse": {"batch_size": 10, "mini_batch_size": 5, "processes": 1},
    # Trained only where the trade-off is asked for, with 5 steps; its adapters have rank 2.
    "runs": {"cl-long": {"settings": {"cl": {"batch_size": 10, "max_steps": 5}}}},
    "adapter": {"batch_size": 10, "mini_batch_size": 10, "processes": 1, "max_steps": 5, "lora": LORA},
    "kl_fence": {"batch_size": 10, "mini_batch_size": 10, "processes": 1, "max_steps": 5, "lora": LORA},
    "rounds": {"rounds": 2, "adapter_steps": 3, "policy_steps": 4},
    "offline": {"rows": 55, "rollouts": 3, "processes": 1, "rounds": 2, "batch_size": 20, "rows_per_forward": 2},
    "evaluation": {
        "engine": "transformers", "max_new_tokens": 60, "groups": {"sts": ["BIOSSES"]}, "subset": ["sts"], "pairs": 0,
    },
    "general": {"tasks": ["humaneval"], "rationales": 0},
    # 990 rows, 10 at a time, twice, are 198 updates: the second checkpoint is never reached. A budget of 60 is the run.
    "ablations": {
        "lambda": None,
        "algorithm": {"grid": {"grace.estimator": ["grpo", "remax"]}},
        "pooling": {"runs": ["grace"], "points": {"max": {"pooling": {"method": "max"}}}},
        "batch": {"points": {"10": {"grace": {"instances": 10}}, "20": {"grace": {"instances": 20}}}, **WHOLE},
        "rollouts": {"grid": {"grace.rollouts": [2, 4]}, **WHOLE},
        "budget": {"grid": {"evaluation.max_new_tokens": [30, 60, 90]}},
        "progression": {"runs": ["grace"], "steps": [100, 200]},
        "modes": None,
        "layers": None,
    },
    "tables": {"baselines": None},
    "latency": {"budgets": [20, 60], "texts": 3, "repeats": 2},
    "cases": {"documents": 2, "queries": 1, "max_new_tokens": 60},
    "hardware": HARDWARE,
    "resources": {"train": {"gpu": 1}},
}  # fmt: skip
KEPT = {"e5": 1000, "wiki1m": 1000}


def study(name: str = "paper", wanted: bool = False, **over) -> Plan:
    """A configured study, `wanted`: with ablations; `over`: sections of it that differ, or keys of config.yaml."""
    config = copy.deepcopy(CONFIG)
    config["study"], config["ablations"] = name, wanted
    config["available_backbones"]["small"] = SMALL
    config["studies"]["hand"] = copy.deepcopy(HAND)
    for section, values in over.items():
        if isinstance(values, dict):
            config["studies"][name].setdefault(section, {})
            config["studies"][name][section] = {**config["studies"][name][section], **values}
        else:
            config[section] = values
    return Plan(config)


def job(made, run, backbone="small"):
    return next(one for one in made.trainings if (one.backbone, one.run) == (backbone, run))


def rule(made, name):
    return next(one for one in made.rules if one.name == name)
