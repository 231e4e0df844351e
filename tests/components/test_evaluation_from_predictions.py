"""An evaluation that takes what was predicted before the labels were known, where there is that."""

from pathlib import Path

import pytest

from components.serving_location import MODEL, WEEKS, serving_site
from locations import failure_of, metadata_of

pytestmark = pytest.mark.slow

EVALUATION = "houses/evaluation"


def test_stored_predictions_count_for_the_model_that_made_them(tmp_path: Path) -> None:
    model = MODEL.replace("promotion:", "evaluation: {from_predictions: true}\n  promotion:")
    with serving_site(tmp_path / "home", model) as site:
        site.train(2)
        for week, rows in ((3, 200), (4, 0)):
            if rows:
                assert site.materialize(["houses/predictions"], WEEKS[week]).success
            result = site.materialize([EVALUATION], WEEKS[week])
            assert result.success, failure_of(result)
            metadata = metadata_of(result, EVALUATION)
            assert metadata["rows_from_predictions"] == rows
            assert metadata["rows"] == 200
            assert metadata["models"] == 1
            assert 0 < metadata["youngest_model_error"] < 10  # per cent
