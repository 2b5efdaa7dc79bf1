"""Supervised fine-tuning on your own conversations or prompt-completion rows.

From a released LFM2 checkpoint in a local folder (safetensors and tokenizer.json):

    jaxpo run sft --run runs/my-sft --model-from LFM2-350M \
        --sft.data.train my.jsonl --compute.dtype bfloat16

From random weights with a tokenizer trained on the same file (a small model on a laptop):

    jaxpo run sft --run runs/my-sft --tokenizer.train-on my.jsonl --sft.data.train my.jsonl \
        --sft.optimizer.learning-rate 2e-3

Rows have `messages`, or `prompt` and `completion`. Assistant turns (or completions) are trained on.

With the settings of the LFM2 Technical Report: 3 epochs, context 32,768, AdamW, 3e-5 -> 1e-7 by a cosine after 500
steps, 10% dropout on the embedding (of the small models alone; `--sft.embedding-dropout 0` for large ones):

    jaxpo run sft:report --run runs/my-sft --model-from LFM2-350M \
        --sft.data.train my.jsonl --compute.dtype bfloat16 --compute.remat full

Another optimiser, and an average of the parameters that is handed on in their place:

    jaxpo run sft ... --stage.optimizer muon --stage.optimizer.muon-beta 0.9
    jaxpo run sft ... --stage.ema-decay 0.999 --stage.use-ema

Instead of the likelihood per token, a loss that keeps the model near its start (`jaxpo losses implicit_reward`):

    jaxpo run sft ... --stage.loss implicit_reward --stage.loss.divergence chi2
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


def report() -> Run:
    """Fine-tuning as in the LFM2 Technical Report (arXiv 2511.23404); its rows per step are not published."""
    return Run(
        name="sft",
        stages=(
            SFT(
                data=Data(max_length=32768, row_length=32768),
                optimizer=Optimizer(
                    learning_rate=3e-5,
                    final_learning_rate=1e-7,
                    lr_scheduler_type="cosine",
                    warmup_steps=500,
                    adam_beta1=0.9,
                    adam_beta2=0.95,
                    weight_decay=0.1,
                ),
                embedding_dropout=0.1,
                rows_per_step=16,
                num_train_epochs=3,
                save_steps=200,
            ),
        ),
    )
