"""Distillation of a small student from a teacher with the same tokenizer.

From a trained teacher (a run, a stage, or an export in a local folder), on texts or conversations; the teacher's 32
likeliest tokens are recorded once, 132 bytes per token, then its memory is free (docs/distillation.md):

    jaxpo run distill --run runs/student --tokenizer.path runs/teacher/export --distill.data.train my.jsonl \
        --distill.teacher runs/teacher/export

With records that `jaxpo data teach` wrote, on this or on other machines:

    jaxpo data teach runs/teacher/export my.jsonl records --max-length 1024
    jaxpo run distill --run runs/student --tokenizer.path runs/teacher/export --distill.data.train my.jsonl \
        --distill.records records

The teacher in every step instead, which losses on whole distributions need:

    jaxpo run distill ... --distill.precompute-teacher False --stage.loss generalized_jsd

A released checkpoint as the student: `--model-from LFM2-350M --distill.init-from previous`.
"""

from jaxpo.config import Data, Distill, Optimizer, Run
from jaxpo.objectives.methods.topk_kd import DecoupledTopK


def config() -> Run:
    return Run(
        name="distill",
        stages=(
            Distill(
                data=Data(max_length=1024, row_length=1024),
                loss=DecoupledTopK(),
                optimizer=Optimizer(learning_rate=1e-3, warmup_ratio=0.05),
                rows_per_step=8,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
