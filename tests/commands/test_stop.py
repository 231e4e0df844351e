"""`make stop`, where there is nothing of this machine to end."""

from pathlib import Path

import pytest

from sf_sagemaker.commands.stop import main
from test_deployment import COMPLETE


def test_endpoints_of_another_place_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("SF_SAGEMAKER_DEPLOYMENT is aws")
    assert "endpoint_host.stop(name)" in said


def test_nothing_deployed_is_nothing_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SF_SAGEMAKER_DEPLOYMENT", "local")
    monkeypatch.setenv("SF_SAGEMAKER_HOME", str(tmp_path))
    assert main() == 0
    assert capsys.readouterr() == ("", "")
