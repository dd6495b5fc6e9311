"""Tables of judged answers: what each grader must decide, and why. A row was written before the grader was asked.

The files in `tables/` are tab-separated with a header; ⏎ stands for a line break within a text. Where a row follows the
rule of a benchmark's own grader, its reason names it.
"""

import csv
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent / "tables"
TABLES = {  # the columns that tell a question from another
    "math": ("gold", "answer"),
    "paper": ("gold", "answer"),
    "gsm8k": ("gold", "answer"),
    "choice": ("gold", "answer"),
    "vqa": ("answers", "prediction"),
    "plain": ("extract", "gold", "answer"),
}


def rows_of(name: str) -> list[dict[str, str]]:
    """Reads a table, with line breaks in the place of ⏎."""
    with (FOLDER / f"{name}.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [{column: text.replace("⏎", "\n") for column, text in row.items()} for row in rows]


def failing(name: str, decide) -> str:
    """Returns the rows that `decide`, a function of a row, judges otherwise than the table; "" if there is none."""
    wrong = [row for row in rows_of(name) if decide(row) != (row["right"] == "yes")]
    return "\n".join(" | ".join(row.values()) for row in wrong)


def repeated(name: str) -> list[tuple[str, ...]]:
    """Returns what a table asks more than once."""
    counts = Counter(tuple(row[column] for column in TABLES[name]) for row in rows_of(name))
    return [asked for asked, count in counts.items() if count > 1]


def share_right(name: str) -> float:
    """Returns the share of rows whose answer is right, at least for one annotator."""
    rows = rows_of(name)
    return sum(row.get("right") == "yes" or float(row.get("score", 0)) > 0 for row in rows) / len(rows)
