"""What a Llama with SVF needs: memory by part, and seconds by phase, computed from its sizes by `t2.costs`.

    python bench/cost_model.py [--shapes 135m,1b,8b,70b] [--modules all] [--rank 16] [--merged] [--gpu h100]

`t2 estimate` says the same of a whole configuration. `bench/gpu.py` measures and sets its numbers beside these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from measure import count, names_of, parser, table
from transformers import LlamaConfig

from t2.costs.gpus import GPU, gpus
from t2.costs.placement import needed, seconds
from t2.costs.shapes import ModelShape, on_meta, shape_of
from t2.costs.step import Work, memory


def llama(
    hidden: int, intermediate: int, blocks: int, heads: int, kv_heads: int, vocabulary: int, *, tied: bool = False
) -> LlamaConfig:
    """The configuration of a Llama of these sizes."""
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=blocks, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=4096,
    )  # fmt: skip


SHAPES = {
    "tiny": llama(64, 96, 2, 4, 2, 261),
    "135m": llama(576, 1536, 30, 9, 3, 49_152, tied=True),
    "1b": llama(2048, 8192, 16, 32, 8, 128_256, tied=True),
    "3b": llama(3072, 8192, 28, 24, 8, 128_256, tied=True),
    "8b": llama(4096, 14_336, 32, 32, 8, 128_256),
    "70b": llama(8192, 28_672, 80, 64, 8, 128_256),
}
MODULES = {"all": "all", "mlp": "mlp", "qv": ("q_proj", "v_proj")}


@cache
def shape(name: str, modules: str = "all") -> ModelShape:
    """The sizes of one of SHAPES, with the matrices of MODULES adapted."""
    return shape_of(on_meta(SHAPES[name]), MODULES[modules])


def memory_rows(shapes: Sequence[str], work: Work, modules: str) -> list[Mapping[str, float | str]]:
    """GB by part, and the sums that are held at once."""
    rows: list[Mapping[str, float | str]] = []
    for name in shapes:
        size = shape(name, modules)
        parts = memory(size, work)
        again = memory(size, replace(work, recompute=True))["activations"]
        sums = needed(parts | {"blocks": 0.0})
        del parts["dequantized"]  # these are dense
        columns = parts | {"recomputed": again} | sums | {"needed": max(sums.values())}
        rows.append({"GB": name} | {part: count / 1e9 for part, count in columns.items()})
    return rows


def time_rows(shapes: Sequence[str], work: Work, gpu: GPU, modules: str) -> list[Mapping[str, float | str]]:
    """Seconds of a step by phase, and tokens per second."""
    rows: list[Mapping[str, float | str]] = []
    for name in shapes:
        spent = seconds(shape(name, modules), work, gpu)
        total = sum(spent.values())
        rows.append({"seconds": name} | spent | {"step": total, "tokens/s": work.rows * work.new_tokens / total})
    return rows


def report(shapes: Sequence[str], work: Work, gpu: GPU, modules: str = "all") -> str:
    """Both tables."""
    return f"{table(memory_rows(shapes, work, modules))}\n\n{table(time_rows(shapes, work, gpu, modules))}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--shapes", type=names_of(SHAPES), default=["135m", "1b", "8b", "70b"], help="comma-separated")
    made.add_argument("--modules", choices=MODULES, default="all")
    made.add_argument("--rank", type=count, default=None, help="singular values that are learned of each matrix")
    made.add_argument("--merged", action="store_true", help="generation.mode=merged; auto is factored in bfloat16")
    made.add_argument("--gpu", choices=gpus(), default="h100")
    args = made.parse_args(argv)
    work = Work(rank=args.rank, merged_bytes=2 if args.merged else None)
    print(report(args.shapes, work, gpus()[args.gpu], args.modules))


if __name__ == "__main__":
    main()
