"""What a study shows: which models each table and figure is about, and the files that it reads."""

from __future__ import annotations

from typing import Any, cast

from grace import specs
from grace.exhibits import AT_ONCE, Figure, Table
from grace.runs import Runs

REFERENCE = "reasoning"  # what every other run is compared with
BUDGET = "cl-long"  # whose compute that of the other trainings is compared with


class Shown(Runs):
    """A validated study, as its tables and figures see it. Raises: as `Runs`."""

    def wanted(self, form: str) -> list[str]:
        """Names of the tables or figures that are made unasked: without ablations, unless those are asked for; and
        without the trade-off of embeddings and generation, unless that is."""

        def asked(entry: Table | Figure) -> bool:
            if entry.kind in AT_ONCE:
                return self.tradeoff_wanted
            return self.ablations_wanted or not entry.ablations

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
        return self.study.seeds if self._config.get("seeds") is not None else entry.seeds or self.study.seeds

    def _cells(
        self, runs: list[str], backbones: list[str], results: Any, seeds: list[int] | None = None
    ) -> list[specs.Cell]:
        return [
            specs.Cell(backbone=backbone, run=run, seed=seed, results=results(backbone, run, seed))
            for backbone in backbones
            for run in self.study.runs
            if run in runs and backbone in self.backbones_of_run(run)
            for seed in seeds or self.study.seeds
        ]

    def _backbones(self, entry: Table | Figure) -> list[str]:
        listed = [self.ablation_backbones(name) for name in entry.ablations if name in self.study.ablations]
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
            return self.mteb_results(backbone, run, seed, subset or self.run(run).ablation)

        return self._cells(runs, self._backbones(entry), results, self.seeds(entry))

    def general_cells(self, entry: Table | Figure) -> list[specs.Cell]:
        """Models whose general results an exhibit reads."""
        return self._cells(
            [REFERENCE, *self._rows(entry)],
            self._backbones(entry),
            lambda backbone, run, seed: [self.general_result(backbone, run, seed)],
            self.seeds(entry),
        )

    def traded(self, *entries: Table | Figure) -> specs.Traded:
        """What exhibits of the trade-off read: each run in its own mode and in those of their ablations."""
        points: list[specs.Point] = []
        for entry in entries:
            compared = [run for one in getattr(entry, "effects", []) for run in (one.run, one.other)]
            every = [point for name in entry.ablations for point in self.points.get(name, [])]
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
            cells=cells(lambda backbone, run, seed: self.mteb_results(backbone, run, seed, subset=True)),
            general=cells(lambda backbone, run, seed: [self.general_result(backbone, run, seed)]),
            costs=cells(self.costs),
            points=points,
        )

    def _mode(self, run: str) -> str:
        return "reasoning" if self.run(run).rationales else "direct"

    def costs(self, backbone: str, run: str, seed: int) -> list[str]:
        """Records of what a run's model took: of its training, and of the rationales that it learnt from."""
        owner = self.run(run).model or run
        if not self.run(owner).trained:
            return []
        written = [self.rationales_written(backbone, str(self.run(owner).data))] if self.rationales_read(owner) else []
        return [self.model_ready(backbone, run, seed), *written]

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
        return [point for name in entry.ablations for point in self.points.get(name, [])]

    def _figure_files(self, figure: str) -> tuple[list[specs.Cell], list[specs.Cell], dict[str, str]]:
        entry = self.study.figures[figure]
        if entry.kind in AT_ONCE:
            traded = self.traded(entry)
            return traded.cells, traded.general, {}
        general = self.general_cells(entry) if entry.kind == "scatter" else []
        run = self.study.latency.run
        planned = self.backbones_of_run(run) if entry.kind == "latency" and run in self.study.runs else []
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


def files(traded: specs.Traded) -> list[str]:
    """Every file that a comparison reads, each once."""
    return list(dict.fromkeys(path for cell in traded.cells + traded.general + traded.costs for path in cell.results))
