"""Rows that were tokenised before: their ids are taken as they are, and their masks decide what is trained on."""

import json

import numpy as np
import pytest

from jaxpo.config import Data
from jaxpo.data.tokens.inspect import inspect
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError, DataError
from jaxpo.recipe.uses import uses

TEXTS = ("hello", "fine, thanks")
CONVERSATION = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]


@pytest.fixture
def made(tokenizer, tmp_path):
    """Prepares rows and says what was logged; `of(rows)` gives the data set."""

    def of(*rows, purpose="sft", **settings):
        file = tmp_path / f"rows{len(list(tmp_path.iterdir()))}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = Data(train=(str(file),), **{"max_length": 64, "row_length": 64, **settings})
        of.said.clear()
        return prepare([file], data=data, tokenizer=tokenizer, purpose=purpose, cache_dir=tmp_path, log=of.said.append)

    of.said = []
    return of


def segments(dataset):
    return [
        [(s.tokens.tolist(), s.supervised.tolist()) for s in example.segments]
        for example in dataset.store.read(range(len(dataset)))
    ]


@pytest.fixture
def conversation(made):
    """Ids and mask of a conversation as they are made of its messages."""
    ((one,),) = segments(made({"messages": CONVERSATION}))
    return one


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask", "loss_mask", "labels"])
def test_a_masked_row_is_the_conversation_it_was_made_of(made, conversation, name):
    ids, mask = conversation
    flags = [i if learnt else -100 for i, learnt in zip(ids, mask, strict=True)] if name == "labels" else mask
    row = {"input_ids": ids, name: [int(flag) for flag in flags]}
    assert segments(made(row)) == [[conversation]]
    assert any("1 rows were tokenised before" in line for line in made.said)
    assert not any("warning" in line for line in made.said)


def test_of_several_masks_what_all_mark_is_trained_on_and_padding_is_left_out(made, conversation):
    ids, mask = conversation
    masks = {"completion_mask": [*mask, 1, 1], "assistant_masks": [1] * len(ids) + [0, 0]}
    padded = {"input_ids": [*ids, 0, 0], "attention_mask": [1] * len(ids) + [0, 0], **masks}
    assert segments(made({name: [int(x) for x in values] for name, values in padded.items()})) == [[conversation]]


@pytest.mark.parametrize("purpose", ["sft", "language"])
def test_without_a_mask_all_is_trained_on_and_a_long_text_is_split_as_documents_are(made, tokenizer, purpose):
    text = "one two three four five " * 8
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    settings = {"max_length": 20, "row_length": 20, "purpose": purpose}
    assert segments(made({"input_ids": ids}, **settings)) == segments(made({"text": text}, **settings))


def test_ids_that_this_tokenizer_would_not_make_are_warned_of(made, tokenizer):
    letters = [tokenizer.encode(c)[0] for c in "the file"]
    made({"input_ids": letters})
    assert any("the ids of 1 rows are not what this tokenizer makes of their text" in line for line in made.said)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [5, 10**6]}, "field 'input_ids': token 1000000 is none of the tokenizer's"),
        ({"input_ids": [5, -1]}, "field 'input_ids': expected a list of whole numbers, none below 0"),
        ({"input_ids": [[5, 6]]}, "field 'input_ids': expected a list of whole numbers"),
        ({"input_ids": "5 6"}, "field 'input_ids': expected a list of whole numbers"),
        ({"input_ids": [5, 6], "loss_mask": [1]}, "field 'loss_mask': there are 1 values for 2 tokens"),
        ({"input_ids": [5, 6], "loss_mask": [0, 2]}, "field 'loss_mask': a mask holds 0 and 1 only"),
        ({"input_ids": [5, 6], "loss_mask": [1, 0]}, "field 'loss_mask': no token behind the first is trained on"),
        ({"input_ids": [5, 6], "labels": [6, -100]}, "field 'labels': a label is neither -100 nor the token's own id"),
        ({"input_ids": [5, 6], "token_weights": [0.5, 1]}, "field 'token_weights': .* marks tokens"),
        ({"input_ids": [5, 6, 7], "position_ids": [0, 1, 0]}, "field 'position_ids': several texts are packed"),
        ({"input_ids": [5, 6], "seq_lengths": [1, 1]}, "field 'seq_lengths': several texts are packed"),
        ({"messages": CONVERSATION, "input_ids": [5], "assistant_masks": [1]}, "Or give input_ids with it, and no"),
    ],
)
def test_what_does_not_belong_together_is_refused(made, row, message):
    with pytest.raises(DataError, match=message):
        made(row)


def test_settings_that_masks_leave_no_meaning_are_refused(made):
    with pytest.raises(ConfigError, match=r"data.train_on='all' has no meaning for 'tokens' rows"):
        made({"input_ids": [5, 6]}, train_on="all")


def test_truncation_and_empty_rows_are_those_of_answers(made, conversation):
    ids, mask = conversation
    row = {"input_ids": ids, "assistant_masks": [int(flag) for flag in mask]}
    (((tokens, learnt),),) = segments(made(row, {"input_ids": []}, on_empty="skip", max_length=len(ids) - 2))
    assert (tokens, learnt) == (ids[:-2], mask[:-2])
    with pytest.raises(DataError, match="there are no tokens"):
        made(row, {"input_ids": []})


def test_inspect_shows_them_as_text_with_a_tokenizer_and_as_numbers_without(made, tokenizer, tmp_path, conversation):
    ids, mask = conversation
    file = tmp_path / "shown.jsonl"
    file.write_text(json.dumps({"input_ids": ids, "assistant_masks": [int(flag) for flag in mask]}))
    with_text, numbers = inspect(file, tokenizer=tokenizer), inspect(file)
    assert f"⟦{TEXTS[1]}<|im_end|>\n⟧" in with_text.samples[0]
    assert " ".join(map(str, np.asarray(ids)[mask])) in numbers.samples[0]
    assert with_text.unit == numbers.unit == "tokens"
    assert with_text.lengths == numbers.lengths == {"completion": (len(ids),) * 4}


def test_no_tokenizer_is_to_be_trained_on_rows_without_text(files):
    lines = str(inspect(files / "tokens.jsonl", samples=0, uses=uses())).splitlines()
    (pretraining,) = (line for line in lines if line.startswith("  pretraining: "))
    assert "--tokenizer.path TOKENIZER --pretrain.data.train" in pretraining
    assert "  TOKENIZER is the folder of the tokenizer that the ids are of" in lines
