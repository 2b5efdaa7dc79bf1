"""A profile: which steps, what of them, and the time of each operation by itself."""

import json
from types import SimpleNamespace

import jax
import pytest
from train import toy_training as toy

from jaxpo.config import SFT, Pretrain, Run
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.profile import check_profile
from jaxpo.train.profile import OPERATIONS, Profile
from jaxpo.train.profile_range import ProfileRange, parse_range
from jaxpo.train.trace import Span, costliest, lines, self_times, trace_file
from jaxpo.train.trace_proto import Instruction, instructions


def test_a_profile_of_real_steps(tmp_path):
    """Three of six: each of the step's operations ran three times, or as often in loops; told by name and line."""
    said = []
    folder = tmp_path / "profile"
    step = jax.jit(toy.raw_step, donate_argnums=0)
    toy.train(tmp_path, 6, step=step, profile=Profile(ProfileRange(3, 5), folder, said.append))
    stored = json.loads((folder / OPERATIONS).read_text())
    assert stored["steps"] == [3, 5]
    of_step = [o for o in stored["operations"] if o["module"] == "jit_raw_step"]
    assert of_step
    calls = {o["calls"] for o in of_step}
    assert min(calls) == 3
    assert all(n % 3 == 0 for n in calls)
    assert any("dot_general" in o["name"] and "toy_training.py:" in o["place"] for o in of_step)
    assert said[0].startswith(f"profile of steps 3:5: `xprof --logdir {folder}`")

    found = costliest(trace_file(folder), 1000)
    assert [o.seconds for o in found] == sorted((o.seconds for o in found), reverse=True)
    assert sum(o.share for o in found) == pytest.approx(1)
    assert found[: len(stored["operations"])][0].to_json() == stored["operations"][0]
    host = jax.profiler.ProfileData.from_file(str(trace_file(folder)))
    events = [e for plane in host.planes for line in plane.lines for e in line.events if e.name == "train"]
    assert sorted(dict(e.stats)["step_num"] for e in events) == [3, 4, 5]


def test_an_error_inside_the_range_ends_the_trace(tmp_path):
    said = []

    def broken(state, frozen, batch):
        if int(state.step) == 2:
            raise RuntimeError("no memory")
        return toy.step(state, frozen, batch)

    profile = Profile(ProfileRange(2, 4), tmp_path / "profile", said.append)
    with pytest.raises(RuntimeError, match="no memory"):
        toy.train(tmp_path, 6, step=broken, profile=profile)
    assert not profile.recording
    assert "ended before step 4" in said[0]
    assert trace_file(tmp_path / "profile").is_file()


@pytest.mark.parametrize(
    ("first", "total", "left", "said"),
    [
        (1, 9, (3, 5), ""),
        (4, 9, (4, 5), "profile: steps 3:5 of the stage: 4:5 are recorded, as it goes on at step 4 and ends at 9"),
        (1, 4, (3, 4), "profile: steps 3:5 of the stage: 3:4 are recorded, as it goes on at step 1 and ends at 4"),
        (6, 9, None, "profile: steps 3:5 of the stage are not recorded, as it goes on at step 6"),
        (1, 2, None, "profile: steps 3:5 of the stage are not recorded, as it has 2 steps"),
    ],
)
def test_steps_that_the_stage_does_not_take_are_said(tmp_path, first, total, left, said):
    heard = []
    profile = Profile(ProfileRange(3, 5), tmp_path, heard.append)
    profile.start(first, total)
    assert "".join(heard) == said
    assert (profile.wanted and (profile.wanted.first, profile.wanted.last)) == left


def test_ranges():
    assert parse_range("3:5") == ProfileRange(3, 5)
    assert parse_range("my-sft:7:7") == ProfileRange(7, 7, "my-sft")
    assert ProfileRange(1, 2, "sft").of("pretrain") is None
    assert ProfileRange(1, 2).of("pretrain") == ProfileRange(1, 2)
    for text in ("", "3", "3:", ":5", "3:x", "-1:5", "a:b:c:d", "3-5"):
        with pytest.raises(ConfigError, match="expected FROM:TO"):
            parse_range(text)
    for text in ("0:5", "5:3"):
        with pytest.raises(ConfigError, match="FROM comes first"):
            parse_range(text)


def test_steps_that_a_run_does_not_have_are_refused_before_it():
    run = Run(stages=(Pretrain(max_steps=4), SFT(max_steps=8), SFT(name="more", num_train_epochs=2.0)))
    check_profile(run, ProfileRange(2, 4))
    check_profile(run, ProfileRange(5, 8, "sft"))
    check_profile(run, ProfileRange(5, 800, "more"))
    with pytest.raises(ConfigError, match="stage pretrain has 4 steps, so none with the number 5"):
        check_profile(run, ProfileRange(2, 5))
    with pytest.raises(ConfigError, match=r"no stage 'stf' trains; there are pretrain, sft, more. Did you mean sft"):
        check_profile(run, ProfileRange(2, 5, "stf"))


def test_an_operations_own_time_is_without_those_inside():
    """A loop of 10 with two bodies, one of which holds another; then one that stands alone."""
    spans = {name: Span(("m", name), start, length) for name, start, length in (
        ("while", 0, 10), ("a", 1, 3), ("b", 5, 4), ("inner", 6, 1), ("alone", 10, 2),
    )}  # fmt: skip
    own = {span.key[1]: time for span, time in self_times(reversed(spans.values()))}
    assert own == {"while": 3, "a": 3, "b": 3, "inner": 1, "alone": 2}


def event(name, **stats):
    return SimpleNamespace(name=name, start_ns=0.0, duration_ns=1.0, stats=stats.items())


def data(**planes):
    return SimpleNamespace(
        planes=[
            SimpleNamespace(
                name=plane.replace("_", ":"), lines=[SimpleNamespace(name=n, events=e) for n, e in of.items()]
            )
            for plane, of in planes.items()
        ]
    )


HOST = {
    "python": [event("PjitFunction(f)")],
    "tf_XLA": [event("dot.1", hlo_op="dot.1", hlo_module="jit_f"), event("x")],
}


@pytest.mark.parametrize(
    ("planes", "keys"),
    [
        ({"/host_CPU": HOST}, [("jit_f", "dot.1")]),
        ({"/host_CPU": HOST, "/device_GPU_0": {"Stream #7": [event("gemm", hlo_op="dot.2", hlo_module="jit_f")]}},
         [("jit_f", "dot.2")]),
        ({"/host_CPU": HOST, "/device_TPU_0": {
            "Steps": [event("0")],
            "XLA Ops": [event("%fusion.3 = bf16[8]{0} fusion(%p)", hlo_module="jit_f(12)")],
        }}, [("jit_f", "fusion.3")]),
    ],
    ids=["cpu", "gpu", "tpu"],
)  # fmt: skip
def test_operations_are_read_from_the_devices_where_there_are_any(planes, keys):
    assert [span.key for line in lines(data(**planes)) for span in line] == keys


def field(number, value):
    """A field in the wire format: text, a message, or a small integer."""
    if isinstance(value, int):
        return bytes(
            [number << 3 & 0x7F | (0x80 if number > 15 else 0), *([number >> 4] if number > 15 else []), value]
        )
    raw = value.encode() if isinstance(value, str) else value
    key = number << 3 | 2
    head = [key] if key < 128 else [key & 0x7F | 0x80, key >> 7]
    size = [len(raw)] if len(raw) < 128 else [len(raw) & 0x7F | 0x80, len(raw) >> 7]
    return bytes(head + size) + raw


def test_names_of_a_programs_instructions_written_by_hand():
    """Fields that nobody asks for (fixed width too) are passed over; a frame that is not there is no line."""

    def instruction(name, opcode, frame):
        metadata = field(2, f"jit(f)/{opcode}") + field(15, frame)
        return field(
            2, field(1, name) + field(2, opcode) + field(7, metadata) + b"\x19" + bytes(8) + b"\x25" + bytes(4)
        )

    frames = field(1, "/a/model.py") + field(3, field(1, 1) + field(3, 42)) + field(4, field(1, 1))
    body = field(3, instruction("dot.1", "dot", 1) + instruction("add.2", "add", 9))
    module = field(1, "jit_f") + body + field(17, frames)
    stat = field(5, field(1, 3) + field(6, field(1, module)))
    plane = field(2, "/host:metadata") + field(4, field(1, 1) + field(2, stat))
    other = field(2, "/host:CPU") + field(4, field(2, stat))
    assert instructions(field(1, other) + field(1, plane)) == {
        ("jit_f", "dot.1"): Instruction("dot", "jit(f)/dot", "/a/model.py:42"),
        ("jit_f", "add.2"): Instruction("add", "jit(f)/add", ""),
    }
    with pytest.raises(ValueError, match="unknown kind"):
        instructions(b"\x0b")
