"""`jaxpo selftest` passes what works and fails what does not; its training runs in tests/test_wheel.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpo.cli.selftest import main, passes
from jaxpo.selftest import Broken, installation, losses, training


def test_the_losses_agree_here(tmp_path: Path) -> None:
    assert losses.check(tmp_path).startswith("dpo, ipo, simpo agree with float64")
    assert installation.recipes(tmp_path).startswith("30 load")
    assert "cpu" in installation.devices(tmp_path)


@pytest.mark.parametrize("name", losses.CASES)
def test_a_loss_that_is_a_little_wrong_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    equation, ours = losses.CASES[name]
    monkeypatch.setitem(losses.CASES, name, (equation, lambda *given: ours(*given) * 1.0001))
    with pytest.raises(Broken, match=f"{name}: differs from its equation by "):
        losses.check(tmp_path)


def test_one_failure_fails_the_whole_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> str:
        print("what it printed")
        raise Broken("the loss went up")

    monkeypatch.setattr(training, "check", broken)
    monkeypatch.setattr(installation, "devices", lambda folder: str(1 / 0))
    assert main([]) == 1
    out, err = capsys.readouterr()
    assert "  FAILED  training: the loss went up" in out
    assert "what it printed" in out
    assert "  FAILED  devices: division by zero" in out
    assert "ZeroDivisionError" in err, "what nobody foresaw keeps its traceback"
    assert "  ok      losses: " in out
    assert out.splitlines()[-1].startswith("FAILED in ")


def test_what_a_check_prints_is_kept_out_while_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert passes("quiet", lambda folder: print("noise") or "fine", Broken)  # type: ignore[func-returns-value]
    assert capsys.readouterr().out == "  ok      quiet: fine\n"


def test_ctrl_c_is_no_fault_of_the_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "execute", lambda run: 130)
    with pytest.raises(KeyboardInterrupt):
        passes("training", training.check, Broken)
