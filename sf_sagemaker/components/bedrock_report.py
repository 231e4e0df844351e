"""What a comparison with Claude says in metadata: a sentence, a table, a plot, and figures.

An answer that Claude refused, that was cut off, or that is none of the answers counts as wrong: whoever
uses it has to do without. Each kind is counted, and some are shown.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from sf_sagemaker.components import plots
from sf_sagemaker.components.bedrock_attributes import ClaudeBaseline
from sf_sagemaker.lifecycle.yardstick import Contestant, Placing, judge, place, plain_answer
from sf_sagemaker.serving.bedrock import Reply, prompt_digest
from sf_sagemaker.serving.bedrock_budget import Prices
from sf_sagemaker.serving.bedrock_questions import Answered, Asked
from sf_sagemaker.serving.few_shot import Row
from sf_sagemaker.warehouse.lookup import Key

FINE_TUNED = "fine-tuned model"
KINDS = ("refused", "truncated", "malformed")
_SHOWN = 10  # answers that are no answer
_OUTCOMES = {True: "yes", False: "no", None: "can't be told"}


@dataclass(frozen=True)
class Told:
    """What one way of asking Claude says before the prompt; `key` begins the names of its figures."""

    name: str
    key: str
    system: str
    examples: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Who was right on the held-out rows.

    `sent` are the keys of the rows that could be sent. `asked` has what came of each of `told`.
    `fine_tuned` and `baselines` have 1 or 0 for each row; `fine_tuned_ms` is milliseconds for a row.
    """

    rows: Sequence[Row]
    sent: frozenset[Key]
    told: tuple[Told, ...]
    asked: Asked
    fine_tuned: Sequence[float]
    fine_tuned_ms: float
    baselines: Mapping[str, Sequence[float]]
    training_cost: float | None = None


def kind_of(reply: Reply, completion: str, answers: Sequence[str]) -> str:
    """right, wrong, or what makes the answer none: refused, truncated, malformed."""
    if reply.refused:
        return "refused"
    if reply.truncated:
        return "truncated"
    given = plain_answer(reply.text)
    if not reply.whole or not given:
        return "malformed"
    if given == plain_answer(completion):
        return "right"
    return "malformed" if answers and given not in map(plain_answer, answers) else "wrong"


def report(comparison: Comparison, options: ClaudeBaseline, *, seed: int) -> dict[str, Any]:
    """The metadata of a comparison. Raises NothingToCompare where no model has an answer."""
    prices = options.prices.prices() if options.prices else None
    currency = options.prices.currency if options.prices else ""
    kinds = [
        _kinds(comparison, told, answered)
        for told, answered in zip(comparison.told, comparison.asked.asks, strict=True)
    ]
    claude = [
        _contestant(told, answered, of_rows, prices)
        for told, answered, of_rows in zip(
            comparison.told, comparison.asked.asks, kinds, strict=True
        )
    ]
    own = Contestant(FINE_TUNED, _array(comparison.fine_tuned))
    others = [
        Contestant(name, _array(right), cost=0.0, cost_per_1000=0.0)
        for name, right in comparison.baselines.items()
    ]
    placings = place(own, [*claude, *others], seed=seed)
    verdict = judge(
        placings,
        [one.name for one in comparison.told],
        currency=currency,
        training_cost=comparison.training_cost,
    )
    return {
        "worth_it": dg.MetadataValue.md(verdict.sentence),
        "better_than_claude": _OUTCOMES[verdict.better],
        "comparison": _table(placings, comparison.fine_tuned_ms),
        "accuracy_by_cost": _plot(placings, currency),
        "notes": dg.MetadataValue.md(_notes(comparison, options, kinds)),
        "answers_that_are_none": _shown(comparison, kinds),
        "settings": dg.MetadataValue.json(
            {**options.figures(), "system": comparison.told[0].system}
        ),
        **_figures(comparison, placings, kinds),
    }


def _kinds(comparison: Comparison, told: Told, answered: Answered) -> list[str | None]:
    """The kind of each row's answer; None for a row without one."""
    kinds: list[str | None] = []
    for row in comparison.rows:
        reply = answered.replies.get(prompt_digest(row.prompt))
        # A prompt may have been answered before its column was listed: it still doesn't count.
        usable = reply is not None and row.key in comparison.sent
        kinds.append(kind_of(reply, row.completion, told.answers) if reply and usable else None)
    return kinds


def _contestant(
    told: Told, answered: Answered, kinds: Sequence[str | None], prices: Prices | None
) -> Contestant:
    import numpy as np

    replies = list(answered.replies.values())
    right = _array([float("nan") if kind is None else float(kind == "right") for kind in kinds])
    waits = [reply.latency_ms for reply in replies if reply.latency_ms is not None]
    p50, p99 = map(float, np.quantile(waits, [0.5, 0.99])) if waits else (None, None)
    cost = sum(map(prices.cost_of, replies)) if prices is not None else None
    per_1000 = 1000 * cost / len(replies) if cost is not None and replies else None
    return Contestant(told.name, right, cost, per_1000, p50, p99)


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.asarray(values, dtype=float)


def _table(placings: Sequence[Placing], fine_tuned_ms: float) -> dg.TableMetadataValue:
    """One line a model; latency of the fine-tuned model is the mean in batches, on this machine."""

    def points(share: float) -> float:
        return round(100 * share, 1)

    records = []
    for one in placings:
        own = one.contestant.name == FINE_TUNED
        share, gap = one.share, one.difference
        compared = one.rows and one.common and not own
        records.append(
            {
                "model": one.contestant.name,
                "rows answered": one.rows,
                "right answers, %": points(share.estimate) if one.rows else None,
                "95 % interval": f"{points(share.low)} to {points(share.high)}" if one.rows else "",
                "points against fine-tuned": points(gap.estimate) if compared else None,
                "its 95 % interval": (
                    f"{points(gap.low):+} to {points(gap.high):+}" if compared else ""
                ),
                "cost of these rows": _rounded(one.contestant.cost),
                "cost per 1,000 answers": _rounded(one.contestant.cost_per_1000),
                "p50, ms": round(fine_tuned_ms, 1) if own else _rounded(one.contestant.p50_ms, 0),
                "p99, ms": _rounded(one.contestant.p99_ms, 0),
            }
        )
    return dg.MetadataValue.table(
        [dg.TableRecord({k: "" if v is None else str(v) for k, v in r.items()}) for r in records]
    )


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _plot(placings: Sequence[Placing], currency: str) -> dg.MarkdownMetadataValue:
    """Right answers with intervals by the cost of a thousand; what costs nothing is a line across."""
    colors = ("#4f6bd8", "#d9480f", "#2b8a3e", "#868e96", "#862e9c")

    def draw(axes) -> None:
        for one, color in zip(placings, colors, strict=False):
            if not one.rows:
                continue
            name = one.contestant.name
            share, low, high = (
                100 * x for x in (one.share.estimate, one.share.low, one.share.high)
            )
            cost = one.contestant.cost_per_1000
            if cost:
                error = [[share - low], [high - share]]
                axes.errorbar([cost], [share], error, fmt="o", capsize=4, color=color, label=name)
            elif name == FINE_TUNED:
                axes.axhline(share, color=color, label=name)
                axes.axhspan(low, high, color=color, alpha=0.12, linewidth=0)
            else:
                axes.axhline(share, color=color, linestyle=":", label=name)
        axes.set_xlim(left=0)
        unit = f", {currency}" if currency else ""
        axes.set_xlabel(f"cost of 1,000 answers{unit}; lines: not counted, or nothing")
        axes.set_ylabel("right answers, %")
        axes.legend(frameon=False, fontsize=8)

    return plots.markdown(draw, "Right answers by what they cost")


def _notes(
    comparison: Comparison, options: ClaudeBaseline, kinds: Sequence[Sequence[str | None]]
) -> str:
    rows, sent = len(comparison.rows), len(comparison.sent)
    notes = []
    if rows > sent:
        notes.append(
            f"{rows - sent:,} of {rows:,} rows were withheld: they contain a value of "
            f"{', '.join(options.never_send)}, or aren't in the source any more. They are not in "
            "Claude's figures."
        )
    for told, answered, of_rows in zip(comparison.told, comparison.asked.asks, kinds, strict=True):
        counts = Counter(kind for kind in of_rows if kind in KINDS)
        if counts:
            told_of = ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind])
            notes.append(f"{told.name}: {told_of}; they count as wrong.")
        if counts["truncated"]:
            notes.append("Raise bedrock.max_tokens if right answers may be longer.")
        if answered.failures:
            reason = next(iter(answered.failures.values()))
            notes.append(
                f"{told.name}: {len(answered.failures):,} prompts got no answer ({reason}); the next "
                "run asks them again."
            )
        if answered.left:
            why = "when the budget ran out" if comparison.asked.out_of_budget else "after a batch"
            notes.append(
                f"{told.name}: {answered.left:,} prompts were left {why}. The figures are of the rows "
                "answered; materialize again"
                + (" with a larger budget" if comparison.asked.out_of_budget else "")
                + " for the rest, and nothing is paid for twice."
            )
    if len(comparison.told[-1].examples) < options.shots:
        notes.append(
            f"There are {len(comparison.told[-1].examples)} examples instead of {options.shots}: no "
            "more training rows may be sent, or have other prompts."
        )
    notes.append(
        "The fine-tuned model's own running cost is not counted. Its time for a row is the mean in "
        "batches on the machine of this run; Claude's are Bedrock's times for single calls."
    )
    return "\n".join(f"- {note}" for note in dict.fromkeys(notes))


def _shown(comparison: Comparison, kinds: Sequence[Sequence[str | None]]) -> dg.TableMetadataValue:
    """Some answers that are none, with what was written."""
    records = []
    for told, answered, of_rows in zip(comparison.told, comparison.asked.asks, kinds, strict=True):
        for row, kind in zip(comparison.rows, of_rows, strict=True):
            if kind in KINDS and len(records) < _SHOWN:
                reply = answered.replies[prompt_digest(row.prompt)]
                records.append(
                    dg.TableRecord(
                        {
                            "asked by": told.name,
                            "kind": kind,
                            "stop reason": reply.stop_reason,
                            "prompt": row.prompt,
                            "completion": row.completion,
                            "written": reply.text,
                        }
                    )
                )
    columns = ("asked by", "kind", "stop reason", "prompt", "completion", "written")
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in columns])
    return dg.MetadataValue.table(records, schema)


def _figures(
    comparison: Comparison, placings: Sequence[Placing], kinds: Sequence[Sequence[str | None]]
) -> dict[str, Any]:
    """Numbers to be plotted over partitions."""
    asked = comparison.asked
    figures: dict[str, Any] = {
        "rows": len(comparison.rows),
        "rows_withheld": len(comparison.rows) - len(comparison.sent),
        "complete": all(not one.left and not one.failures for one in asked.asks),
        "out_of_budget": asked.out_of_budget,
        "tokens": int(asked.tokens),
        "fine_tuned_ms_per_row": comparison.fine_tuned_ms,
        **({} if asked.cost is None else {"cost": asked.cost}),
        **({} if comparison.training_cost is None else {"training_cost": comparison.training_cost}),
    }
    keys = {told.name: told.key for told in comparison.told}
    names = {FINE_TUNED: "fine_tuned", **keys}
    for one in placings:
        name = names.get(one.contestant.name, one.contestant.name.replace(" ", "_"))
        if one.rows:
            figures[f"{name}_exact_match"] = one.share.estimate
        if one.contestant.name in keys and one.common:
            figures[f"{name}_minus_fine_tuned"] = one.difference.estimate
        for figure in ("cost", "cost_per_1000", "p50_ms", "p99_ms"):
            value = getattr(one.contestant, figure)
            if value is not None and one.contestant.name in keys:
                figures[f"{name}_{figure}"] = value
    for told, answered, of_rows in zip(comparison.told, asked.asks, kinds, strict=True):
        replies = answered.replies.values()
        figures[f"{told.key}_rows"] = sum(kind is not None for kind in of_rows)
        figures[f"{told.key}_new_answers"] = answered.new
        figures[f"{told.key}_input_tokens"] = sum(reply.input_tokens for reply in replies)
        figures[f"{told.key}_output_tokens"] = sum(reply.output_tokens for reply in replies)
        for kind in KINDS:
            figures[f"{told.key}_{kind}"] = sum(one == kind for one in of_rows)
    return figures
