"""Supervised fine-tuning on your own conversations or prompt-completion rows.

From a released LFM2 checkpoint in a local folder (safetensors and tokenizer.json):

    jaxpo run configs/sft.py --run runs/my-sft --model-from LFM2-350M --tokenizer.path LFM2-350M \
        --sft.data.train my.jsonl --compute.dtype bfloat16

From random weights with a tokenizer trained on the same file (a small model on a laptop):

    jaxpo run configs/sft.py --run runs/my-sft --tokenizer.train-on my.jsonl --sft.data.train my.jsonl \
        --sft.optimizer.learning-rate 2e-3

Rows have `messages`, or `prompt` and `completion`. Assistant turns (or completions) are trained on.

Instead of the likelihood per token, a loss that keeps the model near its start (`jaxpo losses implicit_reward`):

    jaxpo run configs/sft.py ... --stage.loss implicit_reward --stage.loss.divergence chi2
"""

from jaxpo.config import SFT, Data, Optimizer, Run


def config() -> Run:
    return Run(
        name="sft",
        stages=(
            SFT(
                data=Data(max_length=1024, row_length=2048),
                optimizer=Optimizer(learning_rate=2e-5, warmup_ratio=0.1, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=2,
                logging_steps=1,
                save_steps=200,
            ),
        ),
    )
