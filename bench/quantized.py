"""SmolLM2 with quantized weights beside fp32: bytes of the base, seconds of a step, and how far its matrices moved.

    python bench/quantized.py [--schemes none,int8] [--new-tokens 24] [--rounds 3]

Bytes are those of parameters and buffers, each once, before an adapter is injected. A step of svf_top16 is 4 prompts
with 4 samples whose completions have no end. Steps are timed in turn, and a ratio is the median over rounds.
`norms` is the largest relative difference of a matrix's Frobenius norm to the dense one's, which an expert of the
other base is judged by (`t2.experts.fingerprint`). What is learned is no part of this: three seeds each of

    python train.py -m experiment=frontier/spectrum base_model.quantization=none,int8 seed=0,1,2

and `evaluate.py task=add2` for the runs together. `--schemes none,int8,nf4` needs bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from estimate_check import SOURCE
from measure import count, finish, names_of, parser, ratio, table, take_turns, timed
from on_device.learner import Learner
from torch import nn

from t2.adapters.svf import SVF
from t2.costs.step import Work
from t2.models.loading import load_model
from t2.models.nf4 import NF4Linear
from t2.models.quantization import QUANTIZATIONS

WORK = Work(prompts=4, samples=4, prompt_tokens=43, rank=16, number_bytes=4, merged_bytes=None)


def held_bytes(model: nn.Module) -> int:
    """Of parameters and buffers, each storage once, and of NF4's scales, which are neither."""
    stored = [one.untyped_storage() for one in [*model.parameters(), *model.buffers()]]
    scales = sum(one.stored_bytes - one.packed.nbytes for one in model.modules() if isinstance(one, NF4Linear))
    return sum({one.data_ptr(): one.nbytes() for one in stored}.values()) + scales


def build(scheme: str, source: str, new_tokens: int) -> tuple[int, SVF, Learner]:
    """Bytes of the base, the adapter, and what trains it."""
    lm = load_model(source, quantization=scheme)
    base = held_bytes(lm.model)
    lm.end_ids = frozenset()
    svf = SVF(progress=False, spectrum="top", rank=WORK.rank)
    svf.inject(lm.model, lm.source)
    return base, svf, Learner(lm, svf, Work(**{**vars(WORK), "new_tokens": new_tokens}))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a row for each scheme."""
    made = parser(__doc__)
    made.add_argument("--schemes", type=names_of(QUANTIZATIONS), default=["none", "int8"])
    made.add_argument("--source", default=SOURCE)
    made.add_argument("--new-tokens", type=count, default=24)
    made.add_argument("--rounds", type=count, default=3)
    args = made.parse_args(argv)
    built = {scheme: build(scheme, args.source, args.new_tokens) for scheme in args.schemes}
    steps = {scheme: timed(partial(learner.step, 1)) for scheme, (_, _, learner) in built.items()}
    seconds = take_turns(steps, args.rounds)
    first = args.schemes[0]
    rows = []
    for scheme, (held, svf, _) in built.items():
        norms, dense = svf.frobenius_norms, built[first][1].frobenius_norms
        rows.append(
            {"base": scheme, "MB": held / 1e6, "of the first": held / built[first][0]}
            | {"s a step": min(seconds[scheme]), "time of the first": ratio(seconds[scheme], seconds[first])}
            | {"norms, 1e-6": 1e6 * max(abs(norms[name] / dense[name] - 1) for name in norms)}
        )
    finish(args, table(rows), {"rows": rows, "seconds": seconds})


if __name__ == "__main__":
    main()
