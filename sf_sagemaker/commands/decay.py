"""`make decay`: models and evaluations of every week of house prices, and how their error grows with age."""

import argparse
import base64
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sf_sagemaker.commands.runs import StepFailed, asset_key, land_and_build, open_runs, table

WEEKS = ("2014-04-28", "2015-05-25")
EVALUATED_WEEKS = ("2014-05-05", "2015-05-25")

_CURVE = "house_prices/decay_curve"
_ASSETS = (
    ("sampled_training_dataset", WEEKS),
    ("trained_xgboost_model", WEEKS),
    ("evaluation", EVALUATED_WEEKS),
)


def main(*, plots: Path | None) -> int:
    """Runs the backfill and prints the curve. Returns 0, or 1 when anything failed.

    `plots` is a folder to write the curve's plots to.
    """
    started = time.monotonic()
    with open_runs() as runs:
        try:
            land_and_build(runs, "raw/house_sales", "features/house_price_features", WEEKS)
            for asset, weeks in _ASSETS:
                step = runs.run(
                    f"house_prices/{asset}, {weeks[0]} to {weeks[1]}",
                    [f"house_prices/{asset}"],
                    partition_range=weeks,
                    quiet=True,
                )
                print(f"  {step.took}")
            curve = runs.run("the decay curve", [_CURVE]).metadata[asset_key(_CURVE)]
        except StepFailed as failure:
            print(f"✗ {failure}", file=sys.stderr)
            return 1
    print(f"\n{_curve(curve)}\n\nBuilt in {time.monotonic() - started:.0f} s.")
    if plots is not None:
        for name in ("error_by_training_and_evaluation", "excess_by_age"):
            _write_plot(plots / f"{name}.png", curve[name])
    return 0


def _curve(curve: Mapping[str, Any]) -> str:
    """The curve at every other age, and what it recommends."""
    rows = [["age, weeks", "excess error", "95 % interval", "error", "fresh model's", "weeks"]]
    for record in curve["ages"].records[1::2]:
        point = record.data
        rows.append(
            [
                str(point["age"]),
                f"{point['excess']:+.1%}",
                f"{point['low']:+.1%} to {point['high']:+.1%}",
                f"{point['error']:.2f} %",
                f"{point['fresh error']:.2f} %",
                str(point["periods"]),
            ]
        )
    return (
        f"house_prices: {curve['models']} models on {curve['evaluated_periods']} weeks; the excess is "
        "relative to the error of the model trained the week before, on the same rows\n\n"
        f"{table(rows)}\n\n{curve['recommendation']}"
    )


def _write_plot(path: Path, markdown: str) -> None:
    image = re.search(r"base64,([A-Za-z0-9+/=]+)", markdown)
    if image is None:
        raise StepFailed(f"there is no plot for {path.name} in the curve's metadata")
    path.write_bytes(base64.b64decode(image[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--plots", type=Path, help="folder to write the plots to")
    sys.exit(main(plots=parser.parse_args().plots))
