"""A checkpoint in GPTQ or AWQ, made here from SmolLM2 and loaded as transformers loads it: is it adapted and trained?

    BUILD_CUDA_EXT=0 pip install --no-deps --requirement constraints-gptq.txt
    GPTQMODEL_CPU_WORKERS=2 python bench/packed_checkpoint.py make --method gptq --layers 30 FOLDER
    python bench/packed_checkpoint.py check FOLDER/gptq

`check` prints how many matrices are packed, the bytes of the base, how far products of gptqmodel are from those of the
dequantized weights, whether z = 1 is the base bit for bit, and the
share of z that one step of svf_top16 moves. Calibration is on sixteen short texts: how good such a base is, is no part
of this. CPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from estimate_check import SOURCE
from measure import count, finish, parser, table, timed
from on_device.learner import Learner
from quantized import WORK, held_bytes

from t2.adapters.svf import SVF
from t2.costs.step import Work
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.quantized_checkpoints import PackedLinear

METHODS = ("gptq", "awq")
TEXTS = [f"The sum of {a} and 23 is {a + 23}. " + "In a small town people count and sing. " * 9 for a in range(16)]


def make(method: str, layers: int, folder: Path) -> None:
    """Quantize the first layers of SmolLM2 into a folder that transformers loads, 4 bits in groups of 64."""
    gptqmodel: Any = import_module("gptqmodel")
    lm = load_model(SOURCE)
    lm.model.model.layers = lm.model.model.layers[:layers]
    lm.model.config.num_hidden_layers = layers
    dense = folder / "dense"
    for one in (lm.model, lm.tokenizer):
        one.save_pretrained(dense)
    form = {"format": "gemm"} if method == "awq" else {}
    settings = gptqmodel.QuantizeConfig(bits=4, group_size=64, quant_method=method, device="cpu", **form)
    with chdir(folder):  # where gptqmodel writes its logs
        model = gptqmodel.GPTQModel.load(str(dense), settings)
        model.quantize(TEXTS, batch_size=4)
        model.save(str(folder / method))
    lm.tokenizer.save_pretrained(folder / method)


@torch.no_grad()
def product_error(lm: LanguageModel) -> float:
    """The largest difference between the library's product and the dequantized weight's, of the product's size."""
    worst = 0.0
    for module in lm.model.modules():
        if isinstance(module, PackedLinear):
            x = torch.randn(8, module.in_features, generator=torch.Generator().manual_seed(1))
            got, expected = module.inner(x), F.linear(x, module.dequantized(), module.bias)
            worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    return worst


@torch.no_grad()
def logits(lm: LanguageModel) -> torch.Tensor:
    """Of one text, (1, T, V)."""
    out: torch.Tensor = lm.model(torch.tensor([lm.tokenizer.encode(TEXTS[0])])).logits
    return out


def check(folder: Path) -> dict[str, object]:
    """Load, adapt, train a step."""
    lm = load_model(str(folder))
    packed = sum(isinstance(one, PackedLinear) for one in lm.model.modules())
    row: dict[str, object] = {"checkpoint": lm.quantization, "packed": packed, "MB": held_bytes(lm.model) / 1e6}
    row["product error"], base = product_error(lm), logits(lm)
    lm.end_ids = frozenset()
    svf = SVF(progress=False, spectrum="top", rank=WORK.rank)
    svf.inject(lm.model, lm.source)
    before = [one.detach().clone() for one in svf.trainable()]
    row["z = 1 is the base"] = bool(torch.equal(base, logits(lm)))
    learner = Learner(lm, svf, Work(**{**vars(WORK), "new_tokens": 16}))
    row["s a step"] = timed(lambda: learner.step(1))()
    moved = torch.cat([(now != then).flatten() for now, then in zip(svf.trainable(), before, strict=True)])
    return row | {"moved": float(moved.float().mean()), "logits moved": not torch.equal(base, logits(lm))}


def main(argv: Sequence[str] | None = None) -> None:
    """Make a checkpoint, or check one."""
    made = parser(__doc__)
    made.add_argument("action", choices=("make", "check"))
    made.add_argument("folder", type=Path)
    made.add_argument("--method", choices=METHODS, default="gptq")
    made.add_argument("--layers", type=count, default=2)
    args = made.parse_args(argv)
    if args.action == "make":
        return make(args.method, args.layers, args.folder.resolve())
    row = check(args.folder)
    return finish(args, table([row]), {"rows": [row]})


if __name__ == "__main__":
    main()
