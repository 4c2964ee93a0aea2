"""Rule `plan`: GPU-hours, tokens, disk and memory of a study before it is run, as Markdown, and as JSON beside it.

The totals hold what is asked for; what each ablation adds is listed, asked for or not, so that one can be dropped.
Nothing is measured: every number follows from the settings, the backbones' shapes and the assumptions in
`hardware` of config.yaml, which the page lists. Only the rows of a source are read, once `pairs` has counted them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from grace import manifest, stage
from grace.files import read_json, write_json, writing
from grace.report.planning import page
from grace.report.planning.jobs import plan, variations
from grace.section import UserError
from grace.specs import PlanSpec


def kept_rows(cards: dict[str, Path]) -> dict[str, int]:
    """Rows of each source whose data card exists. Raises: UserError when a card is not whole."""
    found = {}
    for source, path in cards.items():
        if path.exists():
            kept = read_json(path).get("kept")
            if not isinstance(kept, int):
                raise UserError(f"{path}: does not say how many rows were kept; delete it and run snakemake again.")
            found[source] = kept
    return found


@stage.entry(PlanSpec, outputs=("out",))
def main(spec: PlanSpec, paths: SimpleNamespace) -> None:
    cards = {source: paths.out.parent / f"data/pairs/{source}.card.json" for source in spec.sources}
    kept = kept_rows(cards)
    made = plan(spec, kept)
    with writing(paths.out) as temporary:
        temporary.write_text(page.render(made, variations(spec, kept)), encoding="utf-8")
    read = [cards[source] for source in kept]
    write_json(
        paths.out.with_suffix(".json"),
        {
            "gpu_hours": made.gpu_hours,
            "wall_hours": made.wall_hours,
            "tokens_read": made.work.read,
            "tokens_written": made.work.written,
            "disk_bytes": made.disk,
            "rules": [asdict(rule) for rule in made.rules],
            "trainings": [asdict(job) for job in made.trainings],
            "evaluations": [
                {"backbone": backbone, "run": run, "group": group, **asdict(work)}
                for (backbone, run, group), work in made.evaluations.items()
            ],
            "ablations": [asdict(one) for one in made.additions],
            "manifest": manifest.make("plan", spec, list(read), paths.started),
        },
    )
    print(page.line(made))


if __name__ == "__main__":
    main()
