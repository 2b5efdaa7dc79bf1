"""What a run shows while it works: a progress bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SHOWN = (
    ("loss", "loss"),
    ("eval_loss", "eval_loss"),
    ("grad_norm", "grad_norm"),
    ("learning_rate", "lr"),
    ("reward", "reward"),
    ("correct", "correct"),
    ("completions/mean_length", "length"),
    ("rewards/accuracies", "rewards/accuracies"),
    ("rewards/margins", "rewards/margins"),
    ("accuracy", "accuracy"),
    ("margin", "margin"),
    ("mean_token_accuracy", "token_acc"),
    ("masked_accuracy", "masked_acc"),
    ("macro_f1", "macro_f1"),
    ("eval_reward", "eval_reward"),
    ("eval_rewards/accuracies", "eval_rewards/accuracies"),
    ("eval_rewards/margins", "eval_rewards/margins"),
    ("eval_accuracy", "eval_accuracy"),
    ("eval_mean_token_accuracy", "eval_token_acc"),
    ("eval_masked_accuracy", "eval_masked_acc"),
    ("eval_macro_f1", "eval_macro_f1"),
    ("eval_entity_f1", "eval_entity_f1"),
    ("skipped", "skipped"),
    ("tokens_per_second", "tok/s"),
    ("mfu", "mfu"),
)


class Console:
    """Prints to `stream` (stdout); a bar only where it is a terminal, else lines without control characters.

    Args:
      primary: False on all processes but one of a multi-process run: nothing is printed.
    """

    def __init__(self, stream: TextIO | None = None, *, primary: bool = True):
        self._stream = stream or sys.stdout
        self._primary = primary
        self._terminal = primary and self._stream.isatty()
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = 0
        self._stage = ""

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_stage()

    def say(self, text: str) -> None:
        """Print one line, above the bar when there is one."""
        if not self._primary:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print one line that asks for attention."""
        self.say(f"warning: {text}")

    def start_stage(self, stage: str, step: int, total: int, note: str = "") -> None:
        """Say where the stage begins, and open its bar; the clock of its ETA starts with `compiled`."""
        self.end_stage()
        self._stage, self._total = stage, total
        where = f"resuming at step {step} of stage {stage}" if step else f"starting stage {stage}"
        self.say(f"{where} ({total} steps){note}")
        if self._terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
            )
            # Two refreshes a second: the refresh thread takes the interpreter lock from the loop.
            self._bar = Progress(
                *columns, console=RichConsole(file=self._stream), refresh_per_second=2, speed_estimate_period=60
            )
            self._task = self._bar.add_task(f"{stage} (compiling)", total=total, completed=step, start=False)
            self._bar.start()

    def compiled(self, seconds: float) -> None:
        """The step is compiled: from here on time counts towards the ETA."""
        if seconds >= 0.1:
            self.say(f"{self._stage}: compiled in {seconds:.1f} s")
        if self._bar is not None:
            self.show("")
            self._bar.start_task(self._task)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, activity: str) -> None:
        """Say on the bar what the next step is about; nothing where there is none."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._stage}: {activity}" if activity else self._stage)

    def record(self, record: Mapping[str, Any]) -> None:
        """Print the main metrics of a log record as one line."""
        self.say(format_record(record, self._total))

    def end_stage(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_record(record: Mapping[str, Any], total: int) -> str:
    """`sft  120/500  loss 2.310  grad_norm 0.81  lr 3.0e-04  tok/s 12.3k`."""
    width = len(str(total))
    parts = [f"{record['stage']}  {record['step']:>{width}}/{total}"]
    for name, label in _SHOWN:
        value = record.get(name)
        if isinstance(value, int | float) and not (name == "skipped" and value == 0):
            parts.append(f"{label} {format_value(name, value)}")
    return "  ".join(parts)


def format_value(name: str, value: float) -> str:
    """A number in the form that its metric is usually read in."""
    if name == "learning_rate":
        return f"{value:.2e}"
    if name == "mfu":
        return f"{value:.1%}"
    if name.endswith("per_second"):
        return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3e}"
