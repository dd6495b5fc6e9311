"""The three data sets of PEFT's runner, its splits, and its order of batches.

    train   all of MetaMathQA whose question and answer have at most 1,300 characters together, in the hub's order
    valid   50 questions of GSM8K's train split, drawn by numpy's legacy generator with seed 0
    test    GSM8K's test split
    wiki    the first 100 texts of FineWiki

Batches are made out of buckets of 20, each sorted by length, longest first. Read from the hub, or from JSON, JSONL or
parquet files with the same columns. Not done here: more than one pass over the training rows, which is refused (PEFT's
runner would stop early).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2.tasks.row_source import Row, RowSource

CHAR_LIMIT = 1300
VALID_SIZE = 50
WIKI_SIZE = 100
BUCKET_FACTOR = 20  # batches of a bucket
IGNORED = -100  # the label of tokens that have no part in the loss
METAMATH, GSM8K, WIKI = "meta-math/MetaMathQA", "openai/gsm8k", "HuggingFaceFW/finewiki"
Rows = list[list[int]]  # token ids of texts


@dataclass(frozen=True)
class Sample:
    """A question and its reference answer."""

    query: str
    response: str


@dataclass(frozen=True)
class Files:
    """Local files that take the place of the hub: MetaMathQA, GSM8K's train and test split, FineWiki."""

    train: Path
    valid: Path
    test: Path
    wiki: Path

    def __post_init__(self) -> None:
        """Raise FileNotFoundError where one is missing."""
        for name, path in vars(self).items():
            if not path.is_file():
                raise FileNotFoundError(f"--{name}-file is {path}, which is not a file. Correct the path.")


@dataclass(frozen=True)
class Data:
    """What is trained on, validated on, tested on, and what must not be forgotten."""

    train: Sequence[Sample]
    valid: Sequence[Sample]
    test: Sequence[Sample]
    wiki: Sequence[str]


def read_data(files: Files | None) -> Data:
    """Read everything, from the hub where there are no files.

    Raises:
        ConnectionError: the hub cannot be reached.
        ValueError: a column is missing, or nothing is left of a data set.
    """
    local: dict[str, Path] = {} if files is None else vars(files)
    try:
        metamath = _rows(METAMATH, None, "train", local.get("train"), ("query", "response"))
        gsm8k_train = _rows(GSM8K, "main", "train", local.get("valid"), ("question", "answer"))
        gsm8k_test = _rows(GSM8K, "main", "test", local.get("test"), ("question", "answer"))
        wiki = _wiki(local.get("wiki"))
    except OSError as error:  # ConnectionError is one
        if files is not None:
            raise
        raise ConnectionError(
            f"The data could not be read from the hub: {error} Without it, give --train-file, --valid-file, "
            "--test-file and --wiki-file."
        ) from error
    train = [Sample(str(row["query"]), str(row["response"])) for row in metamath]
    short = [one for one in train if len(f"{one.query} {one.response}") <= CHAR_LIMIT]
    if not short:
        raise ValueError(f"No training row has at most {CHAR_LIMIT} characters; at least one batch is needed.")
    chosen = [_of_gsm8k(gsm8k_train[int(at)]) for at in valid_indices(len(gsm8k_train))]
    return Data(short, chosen, [_of_gsm8k(row) for row in gsm8k_test], wiki)


def valid_indices(count: int) -> list[int]:
    """Which of `count` rows of GSM8K's train split are validated on."""
    indices = np.arange(count)
    np.random.RandomState(0).shuffle(indices)  # what np.random.seed(0) and np.random.shuffle give
    return [int(at) for at in indices[:VALID_SIZE]]


def _of_gsm8k(row: Row) -> Sample:
    return Sample(str(row["question"]), str(row["answer"]))


def _rows(hub_id: str, config: str | None, split: str, file: Path | None, columns: Sequence[str]) -> Sequence[Row]:
    source = RowSource(hub_id, config, None if file is None else {split: str(file)}, hub_id)
    return source.rows(split, columns)


def _wiki(file: Path | None) -> list[str]:
    if file is not None:
        return [str(row["text"]) for row in islice(_rows(WIKI, None, "train", file, ("text",)), WIKI_SIZE)]
    import datasets

    rows = datasets.load_dataset(WIKI, split="train", streaming=True)  # 37 GB that are not downloaded
    return [str(row["text"]) for row in rows.take(WIKI_SIZE)]


def encoded(tokenizer: Any, texts: Sequence[str], max_length: int) -> Rows:
    """Token ids of plain texts, what the tokenizer puts before them (BOS) included, cut to `max_length`."""
    return [ids[:max_length] for ids in tokenizer(list(texts))["input_ids"]]


def train_batches(
    samples: Sequence[Sample], encode: Callable[[Sequence[str]], Rows], template: str, batch_size: int
) -> Iterator[Rows]:
    """One pass over the samples: question and answer as one text, in buckets, each sorted by length, longest first."""
    for start in range(0, len(samples), batch_size * BUCKET_FACTOR):
        bucket = samples[start : start + batch_size * BUCKET_FACTOR]
        rows = encode([template.format(query=one.query) + one.response for one in bucket])
        order = torch.argsort(torch.tensor([len(row) for row in rows]), descending=True).tolist()
        for at in range(0, len(rows), batch_size):
            yield [rows[index] for index in order[at : at + batch_size]]


def padded(rows: Rows, pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows as ids and mask, both (N, S), padded on the right, or on the left for generation."""
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), pad_id), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        where = slice(length - len(row), None) if left else slice(len(row))
        ids[number, where], mask[number, where] = torch.tensor(row), 1
    return ids, mask


def labels_of(ids: Tensor, mask: Tensor) -> Tensor:
    """Labels (N, S) of ids padded on the right: the question's tokens, the answer's, and one EOS where it was padded.

    The longest row of a batch has none, as in PEFT's runner.
    """
    after = torch.arange(ids.shape[1]) > mask.sum(1, keepdim=True)  # behind the first padding
    return ids.masked_fill(after, IGNORED)
