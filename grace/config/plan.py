"""What each rule is told: which files a table or figure reads, and each job's slice of the study as JSON.

The rules ask `Plan` and its `runs`, and nothing else.
"""

from __future__ import annotations

import re
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any, cast

from grace.config import specs
from grace.config.runs import Runs, contrastive
from grace.config.schema import AT_ONCE, Figure, Table
from grace.config.section import Section, merge

REFERENCE = "reasoning"  # what every other run is compared with
BUDGET = "cl-long"  # whose compute that of the other trainings is compared with


class Plan:
    """A validated study, which models its tables and figures are about, and the jobs' specs.

    Args:
        config: as of `Runs`.

    Raises:
        UserError: as `Runs`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.runs = Runs(config)
        self.study, self.root = self.runs.study, self.runs.root

    # ---- tables and figures ---------------------------------------------------------------

    def wanted(self, form: str) -> list[str]:
        """Names of the tables or figures that are made unasked: without ablations, unless those are asked for; and
        without the trade-off of embeddings and generation, unless that is."""

        def asked(entry: Table | Figure) -> bool:
            if entry.kind in AT_ONCE:
                return self.runs.tradeoff_wanted
            return self.runs.ablations_wanted or not entry.ablations

        return [name for name, entry in self._every(form).items() if asked(entry)]

    def _every(self, form: str) -> dict[str, Any]:
        return cast(Any, self.study.tables if form == "table" else self.study.figures)

    def of_the_paper(self, form: str) -> list[str]:
        """Names of all tables or figures but those of the trade-off."""
        return [name for name, entry in self._every(form).items() if entry.kind not in AT_ONCE]

    def together(self, form: str, name: str) -> list[tuple[str, str]]:
        """(form, name) of what a target makes: one table or figure; of the trade-off's table all of the trade-off."""
        if self._every(form)[name].kind != "tradeoff":
            return [(form, name)]
        forms = [(each, one) for each in ("table", "figure") for one in self._every(each)]
        return [(each, one) for each, one in forms if self._every(each)[one].kind in AT_ONCE]

    def _rows(self, entry: Table | Figure) -> dict[str, str | None]:
        """Our run -> the paper's row, with the runs that no table names where the table lists the rest."""
        named = {run for one in self.study.tables.values() for run in one.rows}
        rest = [run for run, at in self.study.runs.items() if run not in named and not (at.ablation or at.extra)]
        if entry.kind == "general":
            rest = [run for run in rest if run not in self.encoder_runs]
        return {**entry.rows, **dict.fromkeys(rest if isinstance(entry, Table) and entry.rest else [])}

    @property
    def encoder_runs(self) -> list[str]:
        """Runs of an encoder-only model, which writes nothing."""
        return [run for run, at in self.study.runs.items() if at.method == "encoder"]

    def seeds(self, entry: Table | Figure) -> list[int]:
        """Those that were asked for, else the exhibit's own, else the study's."""
        return self.study.seeds if self.runs.config.get("seeds") is not None else entry.seeds or self.study.seeds

    def _cells(
        self, runs: list[str], backbones: list[str], results: Any, seeds: list[int] | None = None
    ) -> list[specs.Cell]:
        return [
            specs.Cell(backbone=backbone, run=run, seed=seed, results=results(backbone, run, seed))
            for backbone in backbones
            for run in self.study.runs
            if run in runs and backbone in self.runs.backbones_of_run(run)
            for seed in seeds or self.study.seeds
        ]

    def _backbones(self, entry: Table | Figure) -> list[str]:
        listed = [self.runs.ablation_backbones(name) for name in entry.ablations if name in self.study.ablations]
        return [one for one in self.study.backbones if not listed or any(one in some for some in listed)]

    def mteb_cells(self, entry: Table | Figure) -> list[specs.Cell]:
        """Models whose MTEB results an exhibit reads; `reasoning` is what the others are compared with."""
        runs = [REFERENCE, *self._rows(entry)]
        if isinstance(entry, Figure):
            runs += [name for point in self.figure_points(entry) for name in (point.run, point.of)]
            runs += self.encoder_runs if entry.kind == "latency" else []
        subset = bool(entry.ablations) or (isinstance(entry, Table) and entry.subset)

        def results(backbone: str, run: str, seed: int) -> list[str]:
            if entry.kind == "geometry":
                return [f"{self.root}/mteb/{backbone}/{run}/seed{seed}/{self.geometry_group}.json"]
            return self.runs.mteb_results(backbone, run, seed, subset or self.runs.run(run).ablation)

        return self._cells(runs, self._backbones(entry), results, self.seeds(entry))

    def general_cells(self, entry: Table | Figure) -> list[specs.Cell]:
        """Models whose general results an exhibit reads."""
        return self._cells(
            [REFERENCE, *self._rows(entry)],
            self._backbones(entry),
            lambda backbone, run, seed: [self.runs.general_result(backbone, run, seed)],
            self.seeds(entry),
        )

    def traded(self, *entries: Table | Figure) -> specs.Traded:
        """What exhibits of the trade-off read: each run in its own mode and in those of their ablations."""
        points: list[specs.Point] = []
        for entry in entries:
            compared = [run for one in getattr(entry, "effects", []) for run in (one.run, one.other)]
            every = [point for name in entry.ablations for point in self.runs.points.get(name, [])]
            known = {point.run: point for point in every if "mode" in point.at}
            points += [
                known.get(run) or specs.Point(ablation="", run=run, of=run, at={"mode": self._mode(run)})
                for run in dict.fromkeys([*entry.rows, REFERENCE, *known, *compared])
                if run in self.study.runs
            ]
        points = list({point.run: point for point in points}.values())
        runs = [point.run for point in points]
        trained = [name for name in self.study.backbones if name not in self.study.untrained]
        backbones = [name for name in trained if any(name in self._backbones(one) for one in entries)]
        seeds = sorted({seed for entry in entries for seed in self.seeds(entry)})

        def cells(results: Any) -> list[specs.Cell]:
            return self._cells(runs, backbones, results, seeds)

        return specs.Traded(
            tasks=self._tasks(True),
            cells=cells(lambda backbone, run, seed: self.runs.mteb_results(backbone, run, seed, subset=True)),
            general=cells(lambda backbone, run, seed: [self.runs.general_result(backbone, run, seed)]),
            costs=cells(self.costs),
            points=points,
        )

    def _mode(self, run: str) -> str:
        return "reasoning" if self.runs.run(run).rationales else "direct"

    def costs(self, backbone: str, run: str, seed: int) -> list[str]:
        """Records of what a run's model took: of its training, and of the rationales that it learnt from."""
        owner = self.runs.run(run).model or run
        if not self.runs.run(owner).trained:
            return []
        written = (
            [self.runs.rationales_written(backbone, str(self.runs.run(owner).data))]
            if self.runs.rationales_read(owner)
            else []
        )
        return [self.runs.model_ready(backbone, run, seed), *written]

    def cells(self, table: str) -> list[specs.Cell]:
        """The models of a table and the files that it reads."""
        entry = self.study.tables[table]
        if entry.kind in ("progress", "samples", *AT_ONCE):
            return []
        return self.general_cells(entry) if entry.kind == "general" else self.mteb_cells(entry)

    def table_inputs(self, table: str) -> list[str]:
        """Every file that a table reads."""
        entry = self.study.tables[table]
        if entry.kind in AT_ONCE:
            return files(self.traded(entry))
        return [path for cell in self.cells(table) for path in cell.results] + list(self._cases(table).values())

    def _cases(self, table: str) -> dict[str, str]:
        shown = self.study.tables[table].kind in ("progress", "samples")
        return {backbone: f"{self.root}/cases/{backbone}.json" for backbone in self.study.backbones if shown}

    def figure_points(self, entry: Figure) -> list[specs.Point]:
        return [point for name in entry.ablations for point in self.runs.points.get(name, [])]

    def _figure_files(self, figure: str) -> tuple[list[specs.Cell], list[specs.Cell], dict[str, str]]:
        entry = self.study.figures[figure]
        if entry.kind in AT_ONCE:
            traded = self.traded(entry)
            return traded.cells, traded.general, {}
        general = self.general_cells(entry) if entry.kind == "scatter" else []
        run = self.study.latency.run
        planned = self.runs.backbones_of_run(run) if entry.kind == "latency" and run in self.study.runs else []
        timed = [name for name in self._backbones(entry) if name in planned]
        return self.mteb_cells(entry), general, {name: f"{self.root}/latency/{name}.json" for name in timed}

    def figure_inputs(self, figure: str) -> list[str]:
        """Every file that a figure reads."""
        cells, general, latency = self._figure_files(figure)
        return [path for cell in cells + general for path in cell.results] + list(latency.values())

    def _tasks(self, subset: bool) -> list[str]:
        groups = self.study.evaluation.groups
        return [name for group in (self.study.evaluation.subset if subset else groups) for name in groups[group]]

    def trade_off(self) -> list[Table | Figure]:
        """The tables and figures of the trade-off."""
        return [entry for form in ("table", "figure") for entry in self._every(form).values() if entry.kind in AT_ONCE]

    @property
    def geometry_group(self) -> str:
        return (self.study.evaluation.subset or list(self.study.evaluation.groups))[0]

    # ---- data, training ------------------------------------------------------------------

    def spec_source(self, source: str) -> str:
        return _json(specs.SourceSpec(name=source, source=self.runs.sources[source], max_rows=self.study.data.max_rows))

    def spec_pairs(self, source: str) -> str:
        data = self.study.data
        form = self.runs.sources[source].form
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
        mining = self.study.data.mining
        folders = self.runs.mining_encoder()
        return _json(specs.TriplesSpec(mining=mining.model_copy(update={"encoder": folders[0]}) if folders else mining))

    def spec_encoder(self, encoder: str) -> str:
        return _json(specs.EncoderSpec(encoder=self.runs.encoders[encoder]))

    def spec_lengths(self, data: str) -> str:
        return _json(
            specs.LengthsSpec(prompt=self.study.prompt, data=cast(Any, data), too_long=self.study.data.too_long)
        )

    def spec_tasks(self) -> str:
        return _json(specs.TasksSpec(seed=0))

    def spec_backbone(self, backbone: str) -> str:
        return _json(specs.BackboneSpec(backbone=self.runs.backbones[backbone], prompt=self.study.prompt))

    def spec_train(self, run: str, seed: int | str, keep_steps: list[int] | None = None) -> str:
        """keep_steps: None for those that the ablations look at."""
        at, entry = self.runs.sections(run), self.study.runs[run]
        common: dict[str, Any] = dict(
            run=run,
            method=entry.method,
            data=entry.data,
            seed=int(seed),
            prompt=at.prompt,
            pooling=at.pooling,
            keep_steps=self.runs.keep_steps(run) if keep_steps is None else keep_steps,
        )
        if entry.method == "best-of":
            common |= dict(generation=at.generation, reward=at.reward, offline=at.offline, instances=at.grace.instances)
        elif "grace" in entry.method:
            common |= dict(generation=at.generation, reward=at.reward, grace=at.grace)
        if entry.method not in ("grace", "best-of"):
            common |= dict(contrastive=contrastive(at, entry.method), direct_prompt=at.evaluation.direct_prompt)
        if entry.method == "adapter+grace":  # each part's steps are those of a round
            common |= dict(
                rounds=at.rounds,
                contrastive=at.adapter.model_copy(update={"max_steps": at.rounds.adapter_steps or None}),
                grace=at.grace.model_copy(update={"max_steps": at.rounds.policy_steps}),
            )
        if self.runs.rationales_read(run):
            rows = contrastive(at, entry.method).rows
            common |= dict(rationales=self._rationales(str(entry.data)).model_copy(update={"rows": rows}))
        return _json(specs.TrainSpec(**common))

    def spec_rationales(self, data: str) -> str:
        return _json(self._rationales(data))

    def _rationales(self, data: str) -> specs.RationalesSpec:
        """Sampled as in training, as long as in evaluation: what an embedding will be made of."""
        readers = [run for run, at in self.study.runs.items() if at.data == data and self.runs.rationales_read(run)]
        wanted = [contrastive(self.runs.sections(run), self.study.runs[run].method).rows for run in readers]
        at = self.study
        encode = self.encode("backbone", 0).model_copy(
            update={"sampling_temperature": at.generation.sampling_temperature}
        )
        rows = None if None in wanted else max((n for n in wanted if n), default=None)
        return specs.RationalesSpec(data=cast(Any, data), rows=rows, store=at.evaluation.store, encode=encode)

    def train_inputs(self, backbone: str, run: str) -> dict[str, str]:
        """Files that a training waits for: the backbone, its rows, and the rationales that it learns from."""
        data = str(self.study.runs[run].data)
        found = {
            "backbone": f"{self.runs.backbone_folder(backbone)}/manifest.json",
            "rows": f"{self.root}/data/rows/{backbone}/{data}.jsonl",
        }
        return found | (
            {"rationales": self.runs.rationales_written(backbone, data)} if self.runs.rationales_read(run) else {}
        )

    # ---- evaluation ---------------------------------------------------------------------

    def encode(self, run: str, seed: int | str) -> specs.EncodeSpec:
        at = self.runs.sections(run)
        # vLLM serves one set of weights; here what writes is an adapter that is off while texts are pooled.
        two = run != "backbone" and self.study.runs[run].method == "adapter+grace"
        engine = "transformers" if two else at.evaluation.engine
        return specs.EncodeSpec(
            prompt=at.prompt,
            pooling=at.pooling,
            engine=engine,
            rationales=run == "backbone" or self.study.runs[run].rationales,
            direct_prompt=at.evaluation.direct_prompt,
            max_new_tokens=at.evaluation.max_new_tokens,
            sampling_temperature=at.evaluation.sampling_temperature,
            batch_size=at.evaluation.batch_size,
            compile=at.evaluation.compile,
            seed=int(seed),
        )

    def spec_evaluate(self, backbone: str, run: str, seed: int | str, group: str) -> str:
        at = self.runs.sections(run).evaluation
        names = at.groups[group]
        source = self.rationales_of(run)
        return _json(
            specs.EvaluateSpec(
                run=run,
                group=group,
                tasks=names,
                local={name: at.local[name] for name in names if name in at.local},
                sample={name: at.sample[name] for name in names if name in at.sample},
                store=at.store,
                encode=None if run in self.encoder_runs else self.encode(run, seed),
                rationales_of=self.encode(source, seed) if source else None,
                layers=self._layers_below(backbone, run),
                standardize=at.standardize,
                rows=at.rows.get(backbone),
                pairs=min(at.pairs, at.rows.get(backbone, at.pairs)) if self.pair_rows([run], group) else 0,
            )
        )

    def spec_evaluations(self, backbone: str, runs: list[str], seed: int | str, group: str) -> str:
        """Of the runs of one job, one after another."""
        told = [specs.EvaluateSpec.model_validate_json(self.spec_evaluate(backbone, run, seed, group)) for run in runs]
        return _json(specs.EvaluationsSpec(runs=told))

    @cached_property
    def evaluated_together(self) -> dict[str, list[str]]:
        """Name of a rule -> untrained runs that the same tables and figures name beside the main ones. They are one
        job, since importing torch, transformers and mteb takes as long as to evaluate a small model."""
        exhibits: dict[str, Table | Figure] = {**self.study.tables, **self.study.figures}
        found: dict[Any, list[str]] = {}
        for name, run in self.study.runs.items():
            if not run.trained and run.method != "encoder" and (run.extra or run.ablation):
                ablations = frozenset(
                    at.ablation for every in self.runs.points.values() for at in every if at.run == name
                )
                named = frozenset(key for key, entry in exhibits.items() if name in entry.rows)
                backbones = tuple(self.runs.backbones_of_run(name))
                engine = self.runs.sections(name).evaluation.engine
                found.setdefault((ablations, named, run.rationales, backbones, engine), []).append(name)
        ordered = [self._in_order(backbones, runs) for (*_, backbones, _), runs in found.items() if len(runs) > 1]
        return {f"evaluate_{re.sub('[^A-Za-z0-9]', '_', runs[0])}": runs for runs in ordered}

    def _in_order(self, backbones: tuple[str, ...], runs: list[str]) -> list[str]:
        """A run that reads rationales or layers of another one behind that."""
        behind = {run: [of for name in backbones for of in self._read_from(name, run) if of in runs] for run in runs}
        return list(TopologicalSorter(behind).static_order())

    def evaluated_alone(self) -> list[str]:
        """Runs with an evaluation job of their own."""
        together = {run for runs in self.evaluated_together.values() for run in runs}
        return [run for run in self.study.runs if run not in together]

    def standard_rows(self, runs: list[str]) -> list[str]:
        """Training rows by whose embeddings one of the runs' are standardised."""
        rows = f"{self.root}/data/split/{self.study.data.supervised}/train.jsonl"
        return [rows] if any(self.runs.sections(run).evaluation.standardize for run in runs) else []

    @cached_property
    def _layer_points(self) -> list[specs.Point]:
        return [at for every in self.runs.points.values() for at in every if {*at.at} == {"layer"}]

    def _sweep(self, backbone: str, run: str) -> dict[int, str]:
        """Layer -> run, of the direct embeddings that differ from those of `run` in their layer alone."""
        points = self._layer_points
        of = next((at.of for at in points if at.run == run != at.of), None)
        if of is None:
            return {}
        return {
            int(at.at["layer"]): at.run
            for at in points
            if at.of == of != at.run
            and backbone in self.runs.backbones_of_run(at.run)
            and not self.runs.run(at.run).rationales
        }

    def _layers_below(self, backbone: str, run: str) -> list[int]:
        """Of a sweep's deepest layer the others: its pass pools them too."""
        *others, deepest = sorted(self._sweep(backbone, run)) or [-1]
        return others if self._sweep(backbone, run).get(deepest) == run else []

    def pair_rows(self, runs: list[str], group: str) -> list[str]:
        """Held-out pairs, in the one group in which the geometry of one of the runs is measured."""
        measured = group == self.geometry_group and any(self.runs.run(run).measured for run in runs)
        return [self.runs.test_rows()] if measured else []

    def rationales_of(self, run: str) -> str | None:
        """The run that has written the rationales of this one: the same model, other pooling or a larger budget; of
        an adapter, which leaves the backbone's writing as it is, the untrained run."""
        of = next((at.of for points in self.runs.points.values() for at in points if at.run == run != at.of), None)
        entry = self.study.runs.get(run)
        if entry is None or entry.step or not entry.rationales:
            return None
        if entry.method == "adapter":
            of = REFERENCE if REFERENCE in self.study.runs else None
        elif of is None and not entry.trained and run != REFERENCE and REFERENCE in self.study.runs:
            of = REFERENCE
        elif of is None or (entry.trained and entry.model != of) or not self.study.runs[of].rationales:
            return None
        if of is None:
            return None
        ours, theirs = self.encode(run, 0), self.encode(of, 0)
        free = {"pooling": ours.pooling, "max_new_tokens": ours.max_new_tokens}
        same = theirs.model_copy(update=free) == ours and ours.max_new_tokens <= theirs.max_new_tokens
        return of if same else None

    def evaluated_before(self, backbone: str, runs: list[str], seed: int | str, group: str) -> list[str]:
        """Results whose jobs have written the rationales of these runs, or pooled their layers."""
        read = dict.fromkeys(of for run in runs for of in self._read_from(backbone, run) if of not in runs)
        return [f"{self.root}/mteb/{backbone}/{of}/seed{seed}/{group}.json" for of in read]

    def _read_from(self, backbone: str, run: str) -> list[str]:
        """The run that has written this one's rationales, or pooled its layer."""
        sweep = self._sweep(backbone, run)
        of = self.rationales_of(run) or (sweep[max(sweep)] if sweep else None)
        return [of] if of and of != run else []

    def spec_general(self, backbone: str, run: str, seed: int | str) -> str:
        # lm-eval's model and the rationales share one copy of the weights.
        encode = self.encode(run, seed).model_copy(update={"engine": "transformers"})
        rows = self.study.evaluation.rows.get(backbone)
        return _json(specs.GeneralSpec(run=run, general=self.study.general, encode=encode, rows=rows))

    def spec_latency(self) -> str:
        seed = self.study.seeds[0]
        encode = self.encode(REFERENCE if REFERENCE in self.study.runs else "backbone", seed)
        return _json(specs.LatencySpec(latency=self.study.latency, encode=encode, seed=seed))

    def case_models(self, backbone: str) -> list[tuple[str, str]]:
        """Folder of each model whose rationales are shown, and the file that says it is ready."""
        seed = self.study.seeds[0]
        folder = f"{self.root}/models/{backbone}"
        found = []
        for one in self._case_models(backbone):
            if one.step == 0:
                ready = self.runs.backbone_folder(backbone)
                found.append((ready, f"{ready}/manifest.json"))
                continue
            ready = f"{folder}/{one.run}/seed{seed}"
            found.append((f"{ready}/step{one.step}" if one.step else ready, f"{ready}/manifest.json"))
        return found

    def _case_models(self, backbone: str) -> list[specs.CaseModel]:
        cases = self.study.cases
        named = [run for run in (cases.progress, *cases.also) if run in self.study.runs]
        runs = [run for run in named if backbone in self.runs.backbones_of_run(run)]
        steps = [0, *self.runs.keep_steps(cases.progress)] if cases.progress in runs else [0]
        return [specs.CaseModel(run=cases.progress, step=step) for step in steps] + [
            specs.CaseModel(run=run, step=None) for run in runs
        ]

    def spec_cases(self, backbone: str) -> str:
        cases = self.study.cases
        encode = self.encode("backbone", self.study.seeds[0])
        encode = encode.model_copy(update={"engine": "transformers", "max_new_tokens": cases.max_new_tokens})
        return _json(
            specs.CasesSpec(
                models=self._case_models(backbone), documents=cases.documents, queries=cases.queries, encode=encode
            )
        )

    # ---- report -------------------------------------------------------------------------

    def spec_tables(self, table: str) -> str:
        entry = self.study.tables[table]
        return _json(
            specs.TablesSpec(
                study=self.runs.name,
                bootstrap=self.study.bootstrap,
                name=table,
                table=entry.model_copy(update={"rows": self._rows(entry)}),
                tasks=self._tasks(bool(entry.ablations) or entry.subset),
                cells=self.cells(table),
                encoders=[run for run in self._rows(entry) if run in self.encoder_runs],
                cases=self._cases(table),
                traded=self.traded(entry) if entry.kind in AT_ONCE else None,
            )
        )

    def spec_figures(self, figure: str) -> str:
        entry = self.study.figures[figure]
        cells, general, latency = self._figure_files(figure)
        points = self.traded(entry).points if entry.kind in AT_ONCE else self.figure_points(entry)
        steps = {point.of: self.runs.sections(point.of).grace.max_steps for point in self.figure_points(entry)}
        return _json(
            specs.FiguresSpec(
                study=self.runs.name,
                bootstrap=self.study.bootstrap,
                name=figure,
                figure=entry,
                tasks=self._tasks(bool(entry.ablations)),
                cells=cells,
                general=general,
                points=points,
                ends={run: end for run, end in steps.items() if end},
                latency=latency,
            )
        )

    def spec_audit(self) -> str:
        at = self.study.reward
        return _json(specs.AuditSpec(study=self.runs.name, lambda1=at.lambda1, lambda2=at.lambda2))

    def spec_claims(self) -> str:
        main = [run for run, at in self.study.runs.items() if not (at.ablation or at.extra)]
        rows = self.study.tables["baselines"].rows if "baselines" in self.study.tables else []
        passes = [run for run in rows if run in self.study.runs and self.runs.run(run).method == "base"]
        cells = self._cells(main, self.study.backbones, self.runs.mteb_results)
        cells += self._cells(
            [run for run in passes if run not in main],
            self.study.backbones,
            lambda backbone, run, seed: self.runs.mteb_results(backbone, run, seed, subset=True),
        )
        writing = [run for run in main if run not in self.encoder_runs]
        general = self._cells(
            writing, self.study.backbones, lambda backbone, run, seed: [self.runs.general_result(backbone, run, seed)]
        )
        return _json(
            specs.ClaimsSpec(
                study=self.runs.name,
                bootstrap=self.study.bootstrap,
                tasks=self._tasks(False),
                cells=cells,
                general=general,
                baselines=passes,
                subset=self._tasks(True),
                traded=self.traded(*self.trade_off()) if self.runs.tradeoff_wanted else None,
            )
        )

    def claim_inputs(self) -> list[str]:
        """Every result of the study's own runs, and of the trade-off's where that is asked for."""
        spec = specs.ClaimsSpec.model_validate_json(self.spec_claims())
        more = files(spec.traded) if spec.traded else []
        return list(dict.fromkeys([path for cell in spec.cells + spec.general for path in cell.results] + more))

    def results_wanted(self) -> list[str]:
        """Every file that the tables, figures and claims read which are made unasked."""
        paths = [path for name in self.wanted("table") for path in self.table_inputs(name)]
        paths += [path for name in self.wanted("figure") for path in self.figure_inputs(name)]
        return list(dict.fromkeys(paths + self.claim_inputs()))

    def evaluations(self) -> list[str]:
        """MTEB results among them."""
        return [path for path in self.results_wanted() if path.startswith(f"{self.root}/mteb/")]

    def spec_page(self) -> str:
        both: list[tuple[Any, Any]] = [("table", self.study.tables), ("figure", self.study.figures)]
        exhibits = [
            specs.Exhibit(
                name=name, form=form, title=entry.title, caption=entry.caption, shown=name in self.wanted(form)
            )
            for form, every in both
            for name, entry in every.items()
        ]
        return _json(
            specs.PageSpec(study=self.runs.name, title=self.study.title, exhibits=exhibits, config=self.runs.config)
        )

    def spec_plan(self) -> str:
        return _json(specs.PlanSpec(config=self.runs.config))

    def changed(self, settings: dict[str, Any]) -> Plan:
        """The same study with some of its settings changed."""
        studies = self.runs.config["studies"]
        return Plan(
            {**self.runs.config, "studies": {**studies, self.runs.name: merge(studies[self.runs.name], settings)}}
        )


def files(traded: specs.Traded) -> list[str]:
    """Every file that a comparison reads, each once."""
    return list(dict.fromkeys(path for cell in traded.cells + traded.general + traded.costs for path in cell.results))


def _json(spec: Section) -> str:
    return spec.model_dump_json()
