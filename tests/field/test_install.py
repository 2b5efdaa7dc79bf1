"""What a user is told first: what a file can be used for."""

import json

from jaxpo.cli.main import main


def test_a_file_of_conversations_is_said_to_be_for_fine_tuning(field, capsys):
    file = field / "inspect-sft-no" / "messages.jsonl"
    assert main(["data", "inspect", str(file)]) == 0
    first, command, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("can be trained: fine-tuning (jaxpo run sft), ")
    assert command.startswith("  fine-tuning: jaxpo run sft --model-from MODEL ")
    assert f"--sft.data.train {file}" in command


def test_every_reported_file_of_rows_says_first_what_it_is_for_or_what_is_wrong(field, capsys):
    files = sorted(field.glob("*/*.jsonl"))
    assert files
    for file in files:
        code = main(["data", "inspect", str(file)])
        out, err = capsys.readouterr()
        if code == 0:
            assert out.startswith(("can be trained: ", "cannot be trained as it is: ")), file
        else:
            assert (code, out) == (2, ""), file
            assert err.startswith(f"jaxpo: {file}, row "), (file, json.dumps(err))
