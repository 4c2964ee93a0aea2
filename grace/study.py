"""What each rule is told: its slice of the study, as JSON. The rules ask `Plan` and nothing else."""

from __future__ import annotations

from typing import Any, cast

from grace import specs
from grace.exhibits import Figure, Table
from grace.runs import Runs, as_json

REFERENCE = "reasoning"  # what every other run is compared with


class Plan(Runs):
    """A validated study and the slices of it. Raises: as `Runs`."""

    # ---- data, training ------------------------------------------------------------------

    def spec_source(self, source: str) -> str:
        return as_json(specs.SourceSpec(name=source, source=self.sources[source], max_rows=self.study.data.max_rows))

    def spec_pairs(self, source: str) -> str:
        data = self.study.data
        form = self.sources[source].form
        return as_json(specs.PairsSpec(form=form, near_duplicate_cosine=data.near_duplicate_cosine))

    def spec_split(self) -> str:
        data = self.study.data
        return as_json(
            specs.SplitSpec(
                test=data.test,
                validation=data.validation,
                split=data.split,
                near_duplicate_cosine=data.near_duplicate_cosine,
                seed=0,
            )
        )

    def spec_triples(self) -> str:
        return as_json(specs.TriplesSpec(mining=self.study.data.mining))

    def spec_lengths(self, data: str) -> str:
        return as_json(
            specs.LengthsSpec(prompt=self.study.prompt, data=cast(Any, data), too_long=self.study.data.too_long)
        )

    def spec_tasks(self) -> str:
        return as_json(specs.TasksSpec(seed=0))

    def spec_backbone(self, backbone: str) -> str:
        return as_json(specs.BackboneSpec(backbone=self.backbones[backbone], prompt=self.study.prompt))

    def spec_train(self, run: str, seed: int | str) -> str:
        at, entry = self.sections(run), self.study.runs[run]
        common: dict[str, Any] = dict(
            run=run, method=entry.method, data=entry.data, seed=int(seed), prompt=at.prompt, pooling=at.pooling,
            keep_steps=self.keep_steps(run),
        )  # fmt: skip
        if entry.method == "grace":
            return as_json(specs.TrainSpec(**common, generation=at.generation, reward=at.reward, grace=at.grace))
        contrastive = at.cl if entry.method == "cl" else at.simcse
        return as_json(specs.TrainSpec(**common, contrastive=contrastive, direct_prompt=at.evaluation.direct_prompt))

    # ---- evaluation ---------------------------------------------------------------------

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
        source = self.rationales_of(run)
        return as_json(
            specs.EvaluateSpec(
                run=run, group=group, tasks=names,
                local={name: at.local[name] for name in names if name in at.local},
                store=at.store, encode=self._encode(run, seed),
                rationales_of=self._encode(source, seed) if source else None,
                pairs=at.pairs if self.pair_rows(run, group) else 0,
            )
        )  # fmt: skip

    def pair_rows(self, run: str, group: str) -> list[str]:
        """Held-out pairs, in the one group in which a run's geometry is measured."""
        return [self.test_rows()] if group == self.geometry_group and not self.run(run).ablation else []

    @property
    def geometry_group(self) -> str:
        return (self.study.evaluation.subset or list(self.study.evaluation.groups))[0]

    def rationales_of(self, run: str) -> str | None:
        """The run that has written the rationales of this one: the same model, other pooling or a larger budget."""
        of = next((at.of for points in self.points.values() for at in points if at.run == run != at.of), None)
        entry = self.study.runs.get(run)
        if of is None or entry is None or entry.step or not entry.rationales or (entry.trained and entry.model != of):
            return None
        ours, theirs = self._encode(run, 0), self._encode(of, 0)
        free = {"pooling": ours.pooling, "max_new_tokens": ours.max_new_tokens}
        same = theirs.model_copy(update=free) == ours and ours.max_new_tokens <= theirs.max_new_tokens
        return of if same else None

    def evaluated_before(self, backbone: str, run: str, seed: int | str, group: str) -> list[str]:
        """The result whose job has written this job's rationales."""
        of = self.rationales_of(run)
        return [f"{self.root}/mteb/{backbone}/{of}/seed{seed}/{group}.json"] if of else []

    def spec_general(self, run: str, seed: int | str) -> str:
        # lm-eval's model and the rationales share one copy of the weights.
        encode = self._encode(run, seed).model_copy(update={"engine": "transformers"})
        return as_json(specs.GeneralSpec(run=run, general=self.study.general, encode=encode))

    def spec_latency(self) -> str:
        seed = self.study.seeds[0]
        encode = self._encode(REFERENCE if REFERENCE in self.study.runs else "backbone", seed)
        return as_json(specs.LatencySpec(latency=self.study.latency, encode=encode, seed=seed))

    def case_models(self, backbone: str) -> list[tuple[str, str]]:
        """Folder of each model whose rationales are shown, and the file that says it is ready."""
        seed = self.study.seeds[0]
        folder = f"{self.root}/models/{backbone}"
        found = []
        for one in self._case_models():
            if one.step == 0:
                ready = self.backbone_folder(backbone)
                found.append((ready, f"{ready}/manifest.json"))
                continue
            ready = f"{folder}/{one.run}/seed{seed}"
            found.append((f"{ready}/step{one.step}" if one.step else ready, f"{ready}/manifest.json"))
        return found

    def _case_models(self) -> list[specs.CaseModel]:
        cases = self.study.cases
        runs = [run for run in (cases.progress, *cases.also) if run in self.study.runs]
        steps = [0, *self.keep_steps(cases.progress)] if cases.progress in runs else [0]
        return [specs.CaseModel(run=cases.progress, step=step) for step in steps] + [
            specs.CaseModel(run=run, step=None) for run in runs
        ]

    def spec_cases(self) -> str:
        cases = self.study.cases
        encode = self._encode("backbone", self.study.seeds[0])
        encode = encode.model_copy(update={"engine": "transformers", "max_new_tokens": cases.max_new_tokens})
        return as_json(
            specs.CasesSpec(models=self._case_models(), documents=cases.documents, queries=cases.queries, encode=encode)
        )

    # ---- tables and figures -------------------------------------------------------------

    def wanted(self, form: str) -> list[str]:
        """Names of the tables or figures that are made unasked: without ablations, unless those are asked for."""
        every = cast(Any, self.study.tables if form == "table" else self.study.figures)
        return [name for name, entry in every.items() if self.ablations_wanted or not entry.ablations]

    def _rows(self, entry: Table | Figure) -> dict[str, str | None]:
        """Our run -> the paper's row, with the runs that no table names where the table lists the rest."""
        named = {run for one in self.study.tables.values() for run in one.rows}
        rest = [run for run, at in self.study.runs.items() if run not in named and not at.ablation]
        return {**entry.rows, **dict.fromkeys(rest if isinstance(entry, Table) and entry.rest else [])}

    def _cells(self, runs: list[str], backbones: list[str], results: Any) -> list[specs.Cell]:
        return [
            specs.Cell(backbone=backbone, run=run, seed=seed, results=results(backbone, run, seed))
            for backbone in backbones
            for run in self.study.runs
            if run in runs and backbone in self.backbones_of_run(run)
            for seed in self.study.seeds
        ]

    def _backbones(self, entry: Table | Figure) -> list[str]:
        listed = [self.ablation_backbones(name) for name in entry.ablations if name in self.study.ablations]
        return [one for one in self.study.backbones if not listed or any(one in some for some in listed)]

    def mteb_cells(self, entry: Table | Figure) -> list[specs.Cell]:
        """Models whose MTEB results an exhibit reads; `reasoning` is what the others are compared with."""
        runs = [REFERENCE, *self._rows(entry)]
        if isinstance(entry, Figure):
            runs += [name for point in self.figure_points(entry) for name in (point.run, point.of)]
        subset = bool(entry.ablations) or (isinstance(entry, Table) and entry.subset)

        def results(backbone: str, run: str, seed: int) -> list[str]:
            if entry.kind == "geometry":
                return [f"{self.root}/mteb/{backbone}/{run}/seed{seed}/{self.geometry_group}.json"]
            return self.mteb_results(backbone, run, seed, subset or self.run(run).ablation)

        return self._cells(runs, self._backbones(entry), results)

    def general_cells(self, entry: Table | Figure) -> list[specs.Cell]:
        """Models whose general results an exhibit reads."""
        return self._cells(
            [REFERENCE, *self._rows(entry)],
            self._backbones(entry),
            lambda backbone, run, seed: [self.general_result(backbone, run, seed)],
        )

    def cells(self, table: str) -> list[specs.Cell]:
        """The models of a table and the files that it reads."""
        entry = self.study.tables[table]
        if entry.kind in ("progress", "samples"):
            return []
        return self.general_cells(entry) if entry.kind == "general" else self.mteb_cells(entry)

    def table_inputs(self, table: str) -> list[str]:
        """Every file that a table reads."""
        return [path for cell in self.cells(table) for path in cell.results] + list(self._cases(table).values())

    def _cases(self, table: str) -> dict[str, str]:
        shown = self.study.tables[table].kind in ("progress", "samples")
        return {backbone: f"{self.root}/cases/{backbone}.json" for backbone in self.study.backbones if shown}

    def figure_points(self, entry: Figure) -> list[specs.Point]:
        return [point for name in entry.ablations for point in self.points.get(name, [])]

    def _figure_files(self, figure: str) -> tuple[list[specs.Cell], list[specs.Cell], dict[str, str]]:
        entry = self.study.figures[figure]
        general = self.general_cells(entry) if entry.kind == "scatter" else []
        timed = self._backbones(entry) if entry.kind == "latency" and self.study.latency.run in self.study.runs else []
        return self.mteb_cells(entry), general, {name: f"{self.root}/latency/{name}.json" for name in timed}

    def figure_inputs(self, figure: str) -> list[str]:
        """Every file that a figure reads."""
        cells, general, latency = self._figure_files(figure)
        return [path for cell in cells + general for path in cell.results] + list(latency.values())

    def _tasks(self, subset: bool) -> list[str]:
        groups = self.study.evaluation.groups
        return [name for group in (self.study.evaluation.subset if subset else groups) for name in groups[group]]

    def spec_tables(self, table: str) -> str:
        entry = self.study.tables[table]
        return as_json(
            specs.TablesSpec(
                study=self.name, bootstrap=self.study.bootstrap, name=table,
                table=entry.model_copy(update={"rows": self._rows(entry)}),
                tasks=self._tasks(bool(entry.ablations) or entry.subset), cells=self.cells(table),
                cases=self._cases(table),
            )
        )  # fmt: skip

    def spec_figures(self, figure: str) -> str:
        entry = self.study.figures[figure]
        cells, general, latency = self._figure_files(figure)
        points = self.figure_points(entry)
        steps = {point.of: self.sections(point.of).grace.max_steps for point in points}
        return as_json(
            specs.FiguresSpec(
                study=self.name, bootstrap=self.study.bootstrap, name=figure, figure=entry,
                tasks=self._tasks(bool(entry.ablations)), cells=cells, general=general,
                points=points, ends={run: end for run, end in steps.items() if end}, latency=latency,
            )
        )  # fmt: skip

    # ---- report -------------------------------------------------------------------------

    def spec_audit(self) -> str:
        at = self.study.reward
        return as_json(specs.AuditSpec(study=self.name, lambda1=at.lambda1, lambda2=at.lambda2))

    def spec_claims(self) -> str:
        main = [run for run, at in self.study.runs.items() if not at.ablation]
        cells = self._cells(main, self.study.backbones, self.mteb_results)
        general = self._cells(
            main, self.study.backbones, lambda backbone, run, seed: [self.general_result(backbone, run, seed)]
        )
        return as_json(
            specs.ClaimsSpec(
                study=self.name, bootstrap=self.study.bootstrap, tasks=self._tasks(False), cells=cells,
                general=general,
            )
        )  # fmt: skip

    def claim_inputs(self) -> list[str]:
        """Every result of the study's own runs."""
        spec = specs.ClaimsSpec.model_validate_json(self.spec_claims())
        return list(dict.fromkeys(path for cell in spec.cells + spec.general for path in cell.results))

    def spec_page(self) -> str:
        both: list[tuple[Any, Any]] = [("table", self.study.tables), ("figure", self.study.figures)]
        exhibits = [
            specs.Exhibit(
                name=name, form=form, title=entry.title, caption=entry.caption, shown=name in self.wanted(form)
            )
            for form, every in both
            for name, entry in every.items()
        ]  # fmt: skip
        return as_json(specs.PageSpec(study=self.name, title=self.study.title, exhibits=exhibits, config=self._config))

    def spec_plan(self) -> str:
        """The whole study, with what its wanted tables and figures read."""
        paths = [path for name in self.wanted("table") for path in self.table_inputs(name)]
        paths += [path for name in self.wanted("figure") for path in self.figure_inputs(name)]
        paths += self.claim_inputs()
        found: dict[str, dict[str, dict[str, list[str]]]] = {"mteb": {}, "general": {}}
        for path in dict.fromkeys(paths):
            kind, backbone, *rest = path.removeprefix(f"{self.root}/").removesuffix(".json").split("/")
            if kind in found:
                groups = found[kind].setdefault(backbone, {}).setdefault(rest[0], [])
                groups += [rest[2]] if kind == "mteb" and rest[2] not in groups else []
        return as_json(
            specs.PlanSpec(
                name=self.name, study=self.study, backbones=self.backbones, sources=self.sources,
                tables=self.wanted("table"), figures=self.wanted("figure"),
                evaluated=found["mteb"], general={name: list(runs) for name, runs in found["general"].items()},
                timed=[name for name in self.backbones if f"{self.root}/latency/{name}.json" in paths],
                shown=[name for name in self.backbones if f"{self.root}/cases/{name}.json" in paths],
                own_tasks=bool(self.task_data()),
            )
        )  # fmt: skip
