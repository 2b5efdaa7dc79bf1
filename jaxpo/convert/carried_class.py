"""The class of transformers that an export with a head brings along, for versions of transformers that lack it.

It is a file of six lines that puts transformers' own parts together:

    AutoModelForTASK.from_pretrained(folder, trust_remote_code=True)

A version of transformers that has the class loads the same folder without the flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.convert.config_json import export_of
from jaxpo.models.family import TextConfig

CODE = '''"""The class of this checkpoint, for versions of transformers that lack it."""

from transformers.modeling_layers import GenericFor{task}
from transformers.models.{package}.modeling_{package} import {prefix}PreTrainedModel


class {prefix}For{task}(GenericFor{task}, {prefix}PreTrainedModel):
    """LFM2 with a linear head, read at {where}."""
'''


@dataclass(frozen=True)
class CarriedClass:
    """One task's.

    Attributes:
      task: as transformers names it, such as "SequenceClassification".
      module: name of the file, without its ending.
      where: at which tokens the head is read, for whoever opens the file.
    """

    task: str
    module: str
    where: str

    def name(self, prefix: str) -> str:
        """Name of the class, of models whose classes have a prefix such as "Lfm2"."""
        return f"{prefix}For{self.task}"

    def fields(self, config: TextConfig, package: str, labels: Sequence[str]) -> dict[str, Any]:
        """What `config.json` says of it: the class, where it is, and the names of what it tells.

        Args:
          package: of transformers, the document's `model_type`.
        """
        name = self.name(export_of(config).classes[package])
        return {
            "architectures": [name],
            "auto_map": {f"AutoModelFor{self.task}": f"{self.module}.{name}"},
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }

    def write(self, folder: Path, config: TextConfig, package: str) -> None:
        """The file."""
        own = {"package": package, "prefix": export_of(config).classes[package]}
        code = CODE.format(task=self.task, where=self.where, **own)
        (folder / f"{self.module}.py").write_text(code, encoding="utf-8")

    def use(self, with_jaxpo: str) -> tuple[str, ...]:
        """How the folder is loaded, for the model card."""
        return (
            "```python",
            f"from transformers import AutoModelFor{self.task}",
            "",
            f'model = AutoModelFor{self.task}.from_pretrained("FOLDER", trust_remote_code=True)',
            "```",
            "",
            with_jaxpo,
        )
