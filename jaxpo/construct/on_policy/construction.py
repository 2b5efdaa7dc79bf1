"""On-policy preference pairs: the command's form of `pairing.make_pairs`, with judges named by one word each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.on_policy.pairing import make_pairs
from jaxpo.construct.on_policy.workshop import PairOptions, Workshop
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges import Endpoint
from jaxpo.judges.named import JudgeOptions, is_address
from jaxpo.judges.refine import ChatRefiner, FunctionRefiner, Refiner


@dataclass(frozen=True)
class OnPolicy(PairOptions, JudgeOptions, Construction):
    """Samples of --model and the given answers of each prompt, judged: the best against the worst.

    Samples, scores and revisions are appended to OUT.parts/ as they come: the same command goes on where it was
    stopped, and asks again about the answers that a judge failed on. Other settings keep their records in other files.

    Attributes:
      judge: reward, verifier, unit_tests, module:function, file.py:function, file.py or http://...; several make a
        jury, the mean of all. unit_tests and file.py run in a sandbox.
      judge_model, judge_key: the endpoint's model, and the environment variable with its key.
      judge_rubric: text file with the endpoint's instructions, which must ask for a last line `Score: NUMBER`.
      judge_scale: lowest and highest score of an endpoint.
      answer: the verifier's column with the right answer.
      tests: the column with the tests that unit_tests runs.
      unsandboxed: run foreign code with limits alone where bubblewrap does not work: it has the network and your files.
      user: column that names the user whose taste a reward model is asked about, where it knows several.
      refine: module:function, file.py:function or http://..., which revises the chosen answers of instruction data.
      refine_model, refine_key: as for the judge.
    """

    refine: str = ""
    refine_model: str = ""
    refine_key: str = ""

    NAME = "on_policy"
    READS = "prompt and completion; messages; prompt, chosen and rejected; or prompt alone"
    WRITES = "prompt, chosen, rejected, scores: [chosen, rejected], margin, chosen_from, rejected_from, source"

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        if tools.folder is None:
            raise ConfigError("on_policy keeps what it finds in a folder, and none was given.")
        shop = Workshop(
            self.pair_options,
            tools.network,
            tools.folder,
            tools.seed,
            tools.max_length,
            counts=tools.counts,
            say=tools.say,
            check=tools.check,
        )
        yield from make_pairs(rows, self.judges(), self.refiner(), shop)
        for why, n in shop.failures.most_common(3):
            tools.say(f"{n} times without a value: {why}")
        if shop.failures:
            tools.say("their rows are left out; to ask again, remove the output and run the same command")

    def refiner(self) -> Refiner | None:
        """The refiner that the options describe."""
        if is_address(self.refine):
            return ChatRefiner(Endpoint(self.refine, self.refine_model, self.refine_key, max_tokens=2048))
        return FunctionRefiner(self.refine) if self.refine else None
