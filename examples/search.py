"""Semantic search with a trained model, and why the first hit is near.

python examples/search.py results/demo/models/tiny/grace/seed0
"""

import sys

from grace import RationaleEncoder

TEXTS = [
    "Return the eigenvalues of a square matrix.",
    "Open a file for reading. The file must exist.",
    "Draw samples from a normal distribution.",
]
QUERY = "random numbers with a given mean"


def main(model: str) -> None:
    encoder = RationaleEncoder.from_pretrained(model, max_new_tokens=40)
    corpus, query = encoder.encode(TEXTS), encoder.encode_query([QUERY])
    scores = encoder.similarity(query, corpus)[0]
    for i in scores.argsort()[::-1]:
        print(f"{scores[i]:.3f}  {TEXTS[i]}\n       {corpus.rationales[i].text}")
    made = encoder.explain(QUERY, TEXTS[scores.argmax()])
    for part in sorted(made.b.parts, key=lambda part: -part.effect):
        print(f"{part.effect:+.3f}  {part.kind}: {part.text}")


if __name__ == "__main__":
    main(sys.argv[1])
