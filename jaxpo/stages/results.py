"""What a run leaves behind besides weights: probes, samples, counts, the verified export, and the report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import jax

from jaxpo import __version__
from jaxpo.config import Run
from jaxpo.convert.card import facts_of
from jaxpo.convert.diffusers.write import export_diffusers
from jaxpo.convert.generation import read_generation
from jaxpo.convert.heads_hf import export_heads
from jaxpo.convert.hf import export_hf
from jaxpo.convert.pylate import export_retriever
from jaxpo.convert.reader import reader_of
from jaxpo.convert.retriever import Retriever, retriever_of
from jaxpo.convert.reward_hf import export_reward
from jaxpo.data.tokens.shares import as_counts
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.probes import INITIAL
from jaxpo.evaluate.report import write_report
from jaxpo.evaluate.table import probe_table
from jaxpo.models.family import TextConfig, family
from jaxpo.models.heads import further_heads
from jaxpo.objectives.encode import Scorer
from jaxpo.sampling.fitted import as_scored, fitted
from jaxpo.sampling.request import Request, said
from jaxpo.sampling.sampler import GREEDY
from jaxpo.sampling.text import requests_for
from jaxpo.sharding.turns import by_first_process, on_this_process
from jaxpo.stages.run_inputs import RunInputs, StageData
from jaxpo.train.console import Console
from jaxpo.train.files import read_derived, write_json
from jaxpo.train.rundir import RunDir

__all__ = ["INITIAL", "Results"]

Tree = Any
SUMMARY, SAMPLES, COUNTS, EXPORT = "summary.json", "samples.json", "data_counts.json", "export"
TAUGHT, GOODPUT = "teacher_records", "goodput"
SAMPLE_TOKENS = 96


class Results:
    """Collects a run's results in its directory, each file rewritten whole after every addition."""

    def __init__(self, run: Run, home: RunDir, inputs: RunInputs, console: Console):
        self.run, self.home, self.inputs, self.console = run, home, inputs, console

    def after_stage(
        self,
        name: str,
        params: Mapping[str, Tree],
        previous: Mapping[str, Tree] | None,
        scorer: Scorer,
        retriever: Retriever | None = None,
    ) -> None:
        """Probe the model and let it answer the run's prompts, unless that was done before an interruption.

        Args:
          retriever: how the stage's model finds texts.
        """
        if name not in self._read(SUMMARY).get("probes", {}):
            measured: dict[str, Any] = {}
            before = None if previous is None else previous["model"]
            for probe in self.run.probes:
                for key, found in probe.measure(self._context(name, params, before, scorer, retriever)).items():
                    measured[key] = found.record() if hasattr(found, "record") else found
            self._add(SUMMARY, "probes", {name: measured})
            self._say_measured(name, measured)
        if self.run.prompts and name != INITIAL and name not in self._read(SAMPLES):
            self._add(SAMPLES, None, {name: self._samples(params["model"], scorer)})

    def data_counts(self, stage: str, data: StageData) -> None:
        """Store how many rows were read, kept, truncated and dropped."""
        counts = data.train.counts
        dropped = {k.removeprefix("dropped_"): n for k, n in counts.items() if k.startswith("dropped_")}
        record = {k: n for k, n in counts.items() if not k.startswith("dropped_")} | {"dropped": dropped}
        further: dict[str, Any] = {"tokens": data.train.tokens}
        if data.train.shares:
            further["sources"] = as_counts(data.train.shares)
        if bad := data.train.store.meta.get("bad_rows"):
            further["bad_rows"] = [row | {"file": data.train.files[row["file"]]} for row in bad]
        self._add(COUNTS, None, {stage: record | further})

    def worked(self, stage: str, report: Mapping[str, Any]) -> None:
        """Store what a work stage reported."""
        self._add(SUMMARY, "work", {stage: report})

    def taught(self, stage: str, kind: str, records: str, part: Mapping[str, Any]) -> None:
        """Add size and time of one part of a stage's teacher records to those of its other parts.

        Args:
          kind: "train" or "eval", the files that the records belong to.
          records: names them; those of another teacher or other data are counted afresh.
          part: see `teach.figures`.
        """
        of_stage = self._read(SUMMARY).get(TAUGHT, {}).get(stage, {})
        before = of_stage.get(kind, {})
        if before.get("records") != records:
            before = {}
        sums = {name: before.get(name, 0) + part[name] for name in ("tokens", "bytes", "file_bytes", "seconds")}
        speed = {"tokens_per_second": sums["tokens"] / sums["seconds"]}
        counted = {"records": records, "parts_timed": before.get("parts_timed", 0) + 1}
        self._add(SUMMARY, TAUGHT, {stage: of_stage | {kind: {**part, **sums, **speed, **counted}}})

    def merged(self, stage: str, found: Mapping[str, Any]) -> None:
        """Store what a search for the best merge found."""
        self._add(SUMMARY, "merges", {stage: found})

    def took(self, stage: str, seconds: float) -> None:
        """Add to the wall time that a stage has taken in this and earlier starts."""
        so_far = self._read(SUMMARY).get("seconds", {}).get(stage, 0.0)
        self._add(SUMMARY, "seconds", {stage: so_far + seconds})

    def went(self, times: Mapping[str, Any]) -> None:
        """Store where the wall time of all starts went, see `ledger.summary`."""
        self._add(SUMMARY, None, {GOODPUT: times})

    def conclude(self, params: Mapping[str, Tree], config: TextConfig, about: Mapping[str, Any]) -> None:
        """Export and verify the last model, write the report, and mark the run as finished.

        One process writes; what lies with the others comes to it first, and they wait: it is not alone when it fails.
        """
        with on_this_process(params if self.run.export else {}) as whole:
            by_first_process(lambda: self._concluded(whole, config, about))

    def _concluded(self, params: Mapping[str, Tree], config: TextConfig, about: Mapping[str, Any]) -> None:
        results = {"metrics": "metrics.jsonl", "summary": SUMMARY, "report": "report.html"}
        self._add(SUMMARY, None, {"platform": platform_facts(), "corpus": self.inputs.corpus})
        if self.run.export:
            self._add(SUMMARY, None, {"export": self._export(params, config, about)})
            results[EXPORT] = EXPORT
        for line in probe_table(self._read(SUMMARY).get("probes", {})):
            self.console.say(line)
        write_report(self.home.path)
        self.home.finish(results)

    def _export(self, params: Mapping[str, Tree], config: TextConfig, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write the last model as its family is written, and say how well the files agree with it."""
        folder = self.home.path / EXPORT
        facts = facts_of(self.home.path, about)
        options: dict[str, Any] = {"tokenizer": self.inputs.tokenizer, "overwrite": True, "facts": facts}
        if family(config).diffusers is not None:
            report = export_diffusers(params["model"], config, folder, **options)
            self.console.say(f"exported for diffusers: {report['tensors']} tensors, read back bit for bit")
            return report
        reader, own = reader_of(params, about), read_generation(self.home.path)
        if reader is not None and not reader.is_scalar:
            report = export_heads(params, config, folder, reader, generation=own, **options)
            self.console.say(f"reward model exported with {report['heads']} tensors of heads, and verified")
            return report
        retriever = retriever_of(params, about)
        if retriever is not None:
            report = export_retriever(params, config, folder, retriever, **options)
            self.console.say(f"retriever exported and verified: max vector error {report['max_vector_error']:.2e}")
            return report
        if heads := further_heads(params):
            self.console.say(f"export: the files do not hold {heads}, which transformers cannot run; the stage does")
        if reader is not None:
            report = export_reward(params, config, folder, **options)
            self.console.say(f"reward model exported and verified: max reward error {report['max_reward_error']:.2e}")
        else:
            report = export_hf(params["model"], config, folder, generation=own, **options)
            error, kl = report["max_logprob_error"], report["kl"]
            self.console.say(f"export verified: max log-prob error {error:.2e} nats, KL {kl:.2e}")
        return report

    def _context(
        self, stage: str, params: Mapping[str, Tree], before: Tree, scorer: Scorer, retriever: Retriever | None
    ) -> ProbeContext:
        return ProbeContext(
            params=params["model"],
            scorer=scorer,
            tokenizer=self.inputs.tokenizer,
            stage=stage,
            run_dir=self.home.path,
            corpus_dir=self.home.path / "corpus",
            before=before,
            heads={name: tree for name, tree in params.items() if name != "model"},
            retriever=retriever,
        )

    def _samples(self, model: Tree, scorer: Scorer) -> list[dict[str, str]]:
        chats = [[{"role": "user", "content": prompt}] for prompt in self.run.prompts]
        tokenizer = self.inputs.tokenizer
        requests = requests_for(tokenizer, chats, Request((), sampler=GREEDY, max_new_tokens=SAMPLE_TOKENS))
        engine = fitted(model, scorer.config, requests, tokenizer=tokenizer, **as_scored(scorer))
        answers = engine.generate(requests)
        return [{"prompt": p, "response": said(a)} for p, a in zip(self.run.prompts, answers, strict=True)]

    def _say_measured(self, stage: str, measured: Mapping[str, Any]) -> None:
        for name, found in measured.items():
            self.console.say(f"{stage}: {name} {_shown(found)}")

    def _read(self, name: str) -> dict[str, Any]:
        document, moved = read_derived(self.home.path / name, primary=self.home.primary)
        if moved is not None:
            self.console.warn(f"{self.home.path / name} is not valid JSON: it is kept as {moved.name} and begun again")
        return document

    def _add(self, name: str, section: str | None, values: Mapping[str, Any]) -> None:
        if not self.home.primary:
            return
        document = self._read(name)
        if section is None:
            document |= values
        else:
            document[section] = document.get(section, {}) | dict(values)
        write_json(self.home.path / name, document)


def platform_facts() -> dict[str, Any]:
    """What figures depend on: versions, processor, devices."""
    return {
        "jaxpo": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _shown(found: Any) -> str:
    if not isinstance(found, dict):
        return f"{found:.4g}" if isinstance(found, float) else str(found)
    interval = f" [{found['low']:.4g}, {found['high']:.4g}]" if found.get("low") is not None else ""
    return f"{found['value']:.4g}{interval} (n={found['n']})"
