"""From config.yaml to runs, and from runs to paths and specs. The rules ask this and nothing else."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from grace import specs, tasks
from grace.config import Backbone, Run, Source, Study
from grace.section import Section, UserError, build, hint, merge

# Sections that a run may change with `settings`.
RUN_SECTIONS = ("prompt", "pooling", "generation", "reward", "grace", "cl", "simcse", "evaluation")

KEYS = {
    "study", "preset", "seeds", "backbones", "available_backbones", "sources", "defaults", "presets", "studies",
}  # fmt: skip


class Plan:
    """A validated study.

    Args:
        config: the parsed config.yaml with the command line's values merged in.

    Raises:
        UserError: one sentence that names the key.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        for key in config:
            if key not in KEYS:
                raise UserError(f"config: {key}: unknown key{hint(key, KEYS)}.")
        for key in KEYS - {"seeds", "backbones"}:
            if key not in config:
                raise UserError(f"config: {key}: this key is missing.")
        self.name = str(config["study"])
        if self.name not in config["studies"]:
            raise UserError(f"config: study: unknown study {self.name!r}{hint(self.name, config['studies'])}.")
        self.root = f"results/{self.name}"

        self.preset = str(config["preset"])
        if self.preset not in config["presets"]:
            raise UserError(f"config: preset: unknown preset {self.preset!r}{hint(self.preset, config['presets'])}.")
        merged = self._merged(config, self.name)
        for key in ("seeds", "backbones"):
            if config.get(key) is not None:
                value = config[key]
                merged[key] = value if isinstance(value, list) else [value]
        for key in ("runs", "tables"):  # set to null, an entry is dropped; from the command line it comes as text
            merged[key] = {name: entry for name, entry in merged.get(key, {}).items() if entry not in (None, "null")}
        self.study: Study = build(Study, merged, "")
        self._raw, self._config = merged, config

        self.backbones: dict[str, Backbone] = {}
        for name in self.study.backbones:
            if name not in config["available_backbones"]:
                known_names = config["available_backbones"]
                raise UserError(f"config: backbones: unknown backbone {name!r}{hint(name, known_names)}.")
            where = f"available_backbones.{name}"
            self.backbones[name] = build(Backbone, config["available_backbones"][name], where)
        self.sources: dict[str, Source] = {}
        for key in ("supervised", "unsupervised"):
            name = getattr(self.study.data, key)
            if name not in config["sources"]:
                raise UserError(f"config: data.{key}: unknown source {name!r}{hint(name, config['sources'])}.")
            self.sources[name] = build(Source, config["sources"][name], f"sources.{name}")
        if self.sources[self.study.data.supervised].form == "texts":
            raise UserError(
                "config: data.supervised: a source of texts has no positives; name one of pairs or triples."
            )
        missing = {rule for rule in RULES if rule not in self.study.resources}
        if missing:
            raise UserError(f"config: resources.{min(missing)}: this key is missing.")
        if "backbone" in self.study.runs:
            raise UserError("config: runs.backbone: this name is taken by the backbone's own folder; choose another.")
        for name in self.study.runs:
            self.sections(name)  # validates the run's own settings
            if self.study.runs[name].trained and self.gpus(name) > self.study.resources["train"].gpu:
                raise UserError(
                    f"config: resources.train.gpu: {self.study.resources['train'].gpu} GPUs are too few for run "
                    f"{name!r}, which trains with {self.gpus(name)} processes; raise it, or lower the processes."
                )

    @staticmethod
    def _merged(config: dict[str, Any], name: str) -> dict[str, Any]:
        chain: list[dict[str, Any]] = []
        seen: list[str] = []
        at: str | None = name
        while at is not None:
            if at in seen:
                raise UserError(f"config: studies.{at}.extends: the studies extend each other in a circle.")
            if at not in config["studies"]:
                raise UserError(f"config: studies.{seen[-1]}.extends: unknown study {at!r}.")
            seen.append(at)
            chain.append(config["studies"][at] or {})
            at = chain[-1].get("extends")
        merged = merge(config["defaults"], config["presets"][config["preset"]] or {})
        for layer in reversed(chain):
            groups = layer.get("evaluation", {}).get("groups")
            merged = merge(merged, layer)
            if groups is not None:  # a list of jobs is replaced whole
                merged = {**merged, "evaluation": {**merged["evaluation"], "groups": groups}}
        return merged

    # ---- runs ---------------------------------------------------------------------------

    def run(self, name: str) -> Run:
        return self.study.runs[name]

    def sections(self, run: str) -> Study:
        """The study as this run sees it: its `settings` on top of the study's sections."""
        settings = {} if run == "backbone" else self.study.runs[run].settings
        if not settings:
            return self.study
        if run not in self._sections:
            for section in settings:
                if section not in RUN_SECTIONS:
                    raise UserError(f"config: runs.{run}.settings.{section}: unknown key{hint(section, RUN_SECTIONS)}.")
            try:
                self._sections[run] = build(Study, merge(self._raw, settings), "")
            except UserError as error:
                raise UserError(str(error).replace("config: ", f"config: runs.{run}.settings.", 1)) from None
        return self._sections[run]

    @cached_property
    def _sections(self) -> dict[str, Study]:
        return {}

    # ---- paths --------------------------------------------------------------------------

    def model(self, backbone: str, run: str, seed: int | str) -> str:
        """Folder of the model that a run is evaluated with: its own, or the backbone's (also as run "backbone")."""
        if run != "backbone" and self.study.runs[run].trained:
            return f"{self.root}/models/{backbone}/{run}/seed{seed}"
        return self.backbone_folder(backbone)

    def backbone_folder(self, backbone: str) -> str:
        entry = self.backbones[backbone]
        return f"{self.root}/models/{backbone}/backbone/seed{entry.seed}"

    def general_result(self, backbone: str, run: str, seed: int) -> str:
        """Result file of the general tasks. Untrained runs are one model, so they share one."""
        entry = self.study.runs[run]
        owner = run if entry.trained or entry.settings else "backbone"
        return f"{self.root}/general/{backbone}/{owner}/seed{seed}.json"

    def training_rows(self, data: str) -> str:
        """File of the rows that a backbone is trained on, before its length filter."""
        if data == "supervised":
            return f"{self.root}/data/triples/{self.study.data.supervised}.jsonl"
        return f"{self.root}/data/split/{self.study.data.unsupervised}/train.jsonl"

    def task_data(self) -> list[str]:
        """The demo tasks' data, if this study has such tasks."""
        wanted = [*self.study.general.tasks, *(n for names in self.study.evaluation.groups.values() for n in names)]
        demo = {name for names in tasks.DEMO.values() for name in names.split()} | set(tasks.DEMO_GENERAL)
        return [f"{self.root}/data/tasks.json"] if demo & set(wanted) else []

    def held_out(self) -> list[str]:
        """Texts on which rationales are looked at, where no demo task brings its own."""
        return [] if self.task_data() else [f"{self.root}/data/split/{self.study.data.supervised}/test.jsonl"]

    def backbones_of(self, *kinds: str) -> list[str]:
        return [name for name, backbone in self.backbones.items() if backbone.kind in kinds]

    def trained_runs(self) -> list[str]:
        return [name for name, run in self.study.runs.items() if run.trained]

    def vllm(self) -> bool:
        """Whether a run of the study is trained or evaluated with vLLM."""
        every = [self.sections(run) for run in self.study.runs]
        return any("vllm" in (at.grace.engine, at.evaluation.engine) for at in every)

    def gpus(self, run: str) -> int:
        """GPUs of a training job: one per process, or none in a study without."""
        return self._processes(run) if self.study.resources["train"].gpu else 0

    def _processes(self, run: str) -> int:
        at = self.sections(run)
        sections: dict[str, Any] = {"grace": at.grace, "cl": at.cl, "simcse": at.simcse}
        return sections[self.study.runs[run].method].processes

    def launcher(self, run: str) -> str:
        """The command that starts a training module: one process, or one per GPU (`accelerate launch`)."""
        return "python" if self._processes(run) == 1 else "python -m grace.training.launch"

    # ---- specs --------------------------------------------------------------------------

    def spec_source(self, source: str) -> str:
        return _json(specs.SourceSpec(name=source, source=self.sources[source], max_rows=self.study.data.max_rows))

    def spec_pairs(self, source: str) -> str:
        data = self.study.data
        form = self.sources[source].form
        return _json(specs.PairsSpec(form=form, near_duplicate_cosine=data.near_duplicate_cosine))

    def spec_split(self) -> str:
        data = self.study.data
        return _json(
            specs.SplitSpec(
                test=data.test,
                validation=data.validation,
                split=data.split,
                near_duplicate_cosine=data.near_duplicate_cosine,
                seed=0,
            )
        )

    def spec_triples(self) -> str:
        return _json(specs.TriplesSpec(mining=self.study.data.mining))

    def spec_lengths(self, data: str) -> str:
        return _json(
            specs.LengthsSpec(prompt=self.study.prompt, data=cast(Any, data), too_long=self.study.data.too_long)
        )

    def spec_tasks(self) -> str:
        return _json(specs.TasksSpec(seed=0))

    def spec_backbone(self, backbone: str) -> str:
        return _json(specs.BackboneSpec(backbone=self.backbones[backbone], prompt=self.study.prompt))

    def spec_train(self, run: str, seed: int | str) -> str:
        at, entry = self.sections(run), self.study.runs[run]
        common: dict[str, Any] = dict(
            run=run, method=entry.method, data=entry.data, seed=int(seed), prompt=at.prompt, pooling=at.pooling
        )
        if entry.method == "grace":
            return _json(specs.TrainSpec(**common, generation=at.generation, reward=at.reward, grace=at.grace))
        contrastive = at.cl if entry.method == "cl" else at.simcse
        return _json(specs.TrainSpec(**common, contrastive=contrastive, direct_prompt=at.evaluation.direct_prompt))

    def _encode(self, run: str, seed: int | str) -> specs.EncodeSpec:
        at = self.sections(run)
        return specs.EncodeSpec(
            prompt=at.prompt,
            pooling=at.pooling,
            engine=at.evaluation.engine,
            rationales=run == "backbone" or self.study.runs[run].rationales,
            direct_prompt=at.evaluation.direct_prompt,
            max_new_tokens=at.evaluation.max_new_tokens,
            sampling_temperature=at.evaluation.sampling_temperature,
            batch_size=at.evaluation.batch_size,
            seed=int(seed),
        )

    def spec_evaluate(self, run: str, seed: int | str, group: str) -> str:
        at = self.sections(run).evaluation
        names = at.groups[group]
        local = {name: at.local[name] for name in names if name in at.local}
        encode = self._encode(run, seed)
        return _json(specs.EvaluateSpec(run=run, group=group, tasks=names, local=local, store=at.store, encode=encode))

    def spec_general(self, run: str, seed: int | str) -> str:
        # lm-eval's model and the rationales share one copy of the weights.
        encode = self._encode(run, seed).model_copy(update={"engine": "transformers"})
        return _json(specs.GeneralSpec(run=run, general=self.study.general, encode=encode))

    def cells(self, table: str) -> list[specs.Cell]:
        """The models of a table and the files that it reads; `reasoning` is what the others are compared with."""
        entry = self.study.tables[table]
        runs = [run for run in self.study.runs if run in self._rows(table) or run == "reasoning"]

        def results(backbone: str, run: str, seed: int) -> list[str]:
            if entry.kind == "general":
                return [self.general_result(backbone, run, seed)]
            folder = f"{self.root}/mteb/{backbone}/{run}/seed{seed}"
            return [f"{folder}/{group}.json" for group in self.study.evaluation.groups]

        return [
            specs.Cell(backbone=backbone, run=run, seed=seed, results=results(backbone, run, seed))
            for backbone in self.study.backbones
            for run in runs
            for seed in self.study.seeds
        ]

    def _rows(self, table: str) -> dict[str, str | None]:
        """Our run -> the paper's row, with the runs that no table names where the table lists the rest."""
        entry = self.study.tables[table]
        named = {run for one in self.study.tables.values() for run in one.rows}
        rest = [run for run in self.study.runs if run not in named] if entry.rest else []
        return {**entry.rows, **dict.fromkeys(rest)}

    def spec_page(self) -> str:
        return _json(specs.PageSpec(config=self._config))

    def spec_tables(self, table: str) -> str:
        names = [name for group in self.study.evaluation.groups.values() for name in group]
        entry = self.study.tables[table].model_copy(update={"rows": self._rows(table)})
        return _json(
            specs.TablesSpec(
                study=self.name, bootstrap=self.study.bootstrap, name=table, table=entry, tasks=names,
                cells=self.cells(table),
            )
        )  # fmt: skip

    def spec_plan(self) -> str:
        found: dict[str, set[str]] = {"mteb": set(), "general": set()}
        for name, entry in self.study.tables.items():
            for path in (path for cell in self.cells(name) for path in cell.results):
                found[entry.kind].add(path.removeprefix(f"{self.root}/{entry.kind}/").split("/")[1])
        names = ["backbone", *self.study.runs]
        return _json(
            specs.PlanSpec(
                name=self.name, study=self.study, backbones=self.backbones, sources=self.sources,
                evaluated=[run for run in names if run in found["mteb"]],
                general=[run for run in names if run in found["general"]], own_tasks=bool(self.task_data()),
            )
        )  # fmt: skip


RULES = (
    "source", "pairs", "split", "triples", "lengths", "tasks", "backbone", "train", "evaluate", "general", "tables",
    "report",
)  # fmt: skip


def _json(spec: Section) -> str:
    return spec.model_dump_json()
