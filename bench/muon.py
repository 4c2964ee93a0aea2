"""A step of the backbone's optimizer on its matrices, ours in float32 against torch's in bfloat16.

python -m bench.muon --backbone tiny                       (or lab-60m, on a GPU if there is one)
"""

from __future__ import annotations

import torch

from bench import common
from grace.jobs.stage import in_one_sentence
from grace.training.backbone import Muon


@in_one_sentence()
def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=20)
    parser.add_argument("--backbone", default="tiny", help="whose matrices; an entry of available_backbones")
    arguments = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {}
    for name, kind in (("torch", torch.optim.Muon), ("ours", Muon)):
        parameters = common.shaped_model(arguments.backbone, 128, device).named_parameters()
        matrices = [parameter for key, parameter in parameters if "layers" in key and parameter.ndim == 2]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        steps[name] = kind(matrices, lr=0.02, momentum=0.95, weight_decay=0.01).step
    seconds = common.interleaved(steps, arguments.repeats)
    found = common.ratios(seconds["torch"], seconds["ours"])
    print(common.hardware())
    print(common.table(["way", "ms"], [[way, common.spread([1000 * s for s in seconds[way]], 1)] for way in steps]))
    print(f"torch / ours: {common.spread(found)}")
    entry = common.entry("muon_vs_torch", found, common.command(), "a step of torch.optim.Muon / of ours")
    common.write(arguments.json, [entry])


if __name__ == "__main__":
    main()
