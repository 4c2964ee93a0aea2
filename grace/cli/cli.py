"""The command `grace`. Heavy imports wait for a command's own work: help and mistakes answer at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from grace.jobs.stage import in_one_sentence

app = typer.Typer(
    help="Use a trained GRACE model: embeddings of texts, with the rationales that they come from.",
    epilog="Name the model with --model, or once and for all: export GRACE_MODEL=results/demo/models/tiny/grace/seed0. "
    "Where none is named it is SmolLM2-135M-Instruct, fetched once into the user's cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

model_option = typer.Option(
    "--model",
    "-m",
    envvar="GRACE_MODEL",
    metavar="PATH",
    help="Folder, or owner/name on the hub; SmolLM2-135M-Instruct unless given.",
)
Model = Annotated[str | None, model_option]
Tokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest rationale.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0, help="Of sampling rationales; 0 is greedy.")]
Rationales = Annotated[
    bool | None, typer.Option("--rationales/--no-rationales", help="Reason first, or pool the prompt alone.")
]
Batch = Annotated[int | None, typer.Option("--batch-size", min=1, help="Texts side by side; memory and speed only.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Decides, with the text, the sampled rationale.")]
Engine = Annotated[Literal["transformers", "vllm"], typer.Option("--engine", help="What writes the rationales.")]
Field = Annotated[str, typer.Option("--field", "-f", help="Field or column that holds the text.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, for machines.")]


@app.command(
    epilog="""\b
Examples:
    grace embed texts.jsonl -o out.parquet
    grace embed notes.txt -o notes.npy --no-rationales
    grace embed reviews.csv --field body -o reviews.parquet --max-new-tokens 64
    cat texts.txt | grace embed - -o - | jq -c .rationale"""
)
def embed(
    texts: Annotated[
        str, typer.Argument(help=".jsonl, .json, .csv, .tsv, .txt (a text per line) or .parquet; - is standard input.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help=".parquet, .npy or .jsonl; - is JSON lines on standard output.")
    ],
    model: Model = None,
    field: Field = "text",
    text: Annotated[bool, typer.Option("--text/--digest", help="Write the texts, or their digests.")] = True,
    store: Annotated[Path | None, typer.Option(help="Keep embeddings in this folder, for other files too.")] = None,
    max_new_tokens: Tokens = None,
    temperature: Temperature = None,
    rationales: Rationales = None,
    batch_size: Batch = None,
    seed: Seed = None,
    engine: Engine = "transformers",
) -> None:
    """Embed texts into a file.

    The file is there when it is whole. A command that was stopped goes on when it is given again.
    """
    from grace.cli import embed as work

    options = _options(model, max_new_tokens, temperature, rationales, batch_size, seed, engine)
    work.run(texts, out, options, field, text, store)


@app.command(
    epilog="""\b
Examples:
    grace search corpus.jsonl "eigenvalues of a matrix" -k 5 --why
    grace search corpus.jsonl "first query" "second query" --json
    grace search corpus.jsonl - --json < queries.txt > hits.jsonl"""
)
def search(
    corpus: Annotated[str, typer.Argument(help=".jsonl, .json, .csv, .tsv, .txt or .parquet.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="One or more; - is standard input.")],
    model: Model = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits per query.")] = 10,
    why: Annotated[bool, typer.Option("--why", help="Rationales, and the sentences that carry each score.")] = False,
    json: Json = False,
    field: Field = "text",
    index: Annotated[Path | None, typer.Option(help="Folder of the index; CORPUS.index unless given.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the index again, such as for another model.")
    ] = False,
    max_new_tokens: Tokens = None,
    temperature: Temperature = None,
    rationales: Rationales = None,
    batch_size: Batch = None,
    seed: Seed = None,
    engine: Engine = "transformers",
) -> None:
    """Find the texts of a corpus that are nearest to a query.

    The corpus is embedded once, into an index beside it; a changed corpus embeds what is new. Up to 50,000 texts are
    searched exactly, more by an index made to find 99 of 100 neighbours; it says how many it found.
    """
    from grace.cli import search as work

    options = _options(model, max_new_tokens, temperature, rationales, batch_size, seed, engine)
    answers = work.run(corpus, queries, options, field, k, why, index, rebuild)
    from grace.cli import show

    out = show.console()
    for answer in answers:
        if json:
            print(show.answer_json(answer, why), flush=True)
        else:
            show.answer(out, answer, why)


@app.command(
    epilog="""\b
Examples:
    grace explain "Invert a matrix." "Solve a linear system."
    grace explain "Invert a matrix." "Solve a linear system." --json | jq .similarity"""
)
def explain(
    a: Annotated[str, typer.Argument(help="A text.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another text.", show_default=False)],
    model: Model = None,
    json: Json = False,
    max_new_tokens: Tokens = None,
    temperature: Temperature = None,
    rationales: Rationales = None,
    seed: Seed = None,
    engine: Engine = "transformers",
) -> None:
    """Show why two texts are near.

    Prints their similarity, both rationales, and for every sentence how the similarity changes when it is left out.
    """
    from grace.cli.model import load
    from grace.cli.texts import check_argument

    for text in (a, b):
        check_argument(text)
    encoder, _ = load(_options(model, max_new_tokens, temperature, rationales, None, seed, engine))
    made = encoder.explain(a, b)
    from grace.cli import show

    if json:
        print(show.explanation_json(made))
    else:
        show.explanation(show.console(), made)


@app.command(
    epilog="""\b
Examples:
    grace explore results/demo
    grace explore results/demo -o explorer.html --run reasoning --run grace"""
)
def explore(
    results: Annotated[Path, typer.Argument(help="Folder of a study's results.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; RESULTS/explore.html unless given.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Needed where the study has several.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="A run to show; give it once for each.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="At most so many queries and documents.")] = 5000,
    why: Annotated[int | None, typer.Option(min=0, help="For so many texts show what carries the similarity.")] = None,
) -> None:
    """Write a page to look at a study's embeddings.

    It shows texts, their neighbours and rationales, and needs no server and no network.
    """
    from grace.cli import explore as work

    print(work.write(results, out, backbone=backbone, runs=run or None, texts=texts, why=why))


def _options(model: Any, tokens: Any, temperature: Any, rationales: Any, batch: Any, seed: Any, engine: Any) -> Any:
    from grace.cli.model import Options
    from grace.config.section import build

    given = {"model": model, "max_new_tokens": tokens, "sampling_temperature": temperature, "rationales": rationales}
    return build(Options, {**given, "batch_size": batch, "seed": seed, "engine": engine}, "options")


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit: 0, 1 for a user's mistake (one sentence on standard error), 2 for a wrong usage.

    A reader of the output that goes away ends it with 1 and no message (Typer's doing).
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with in_one_sentence():
        app(args=argv, prog_name="grace")


if __name__ == "__main__":
    main()
