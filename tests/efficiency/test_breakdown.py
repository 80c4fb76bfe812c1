"""Time by kind: on a program written by hand, on spans written by hand, and on a network."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from arch.efficiency import breakdown as module
from arch.efficiency.breakdown import KINDS, Instruction, breakdown, instructions
from arch.efficiency.complexity import trace
from arch.efficiency.latency import build
from arch.efficiency.layers import layers
from arch.ops.channel import channel_shuffle
from arch.ops.conv import Conv


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(64, 3, name="conv")(x))
        x = channel_shuffle(x, 4)
        x = Conv(64, 3, feature_group_count=64, name="depthwise")(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dense(10, name="classifier")(x)


TEXT = """\
HloModule jit_apply, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum.1 = f32[] add(%a, %b)
}

%fused.1 (p: f32[8,4]) -> f32[8,4] {
  %m.1 = f32[8,4]{1,0} maximum(%p, %p), metadata={op_name="jit(apply)/_Net/jit(relu)/max"}
  ROOT %t.1 = f32[4,8]{1,0} transpose(%m.1), metadata={op_name="jit(apply)/_Net/channel_shuffle/transpose"}
}

%fused.2 (p: f32[8,4]) -> f32[8,4] {
  %k.1 = f32[8,4]{1,0} multiply(%p, %p), metadata={op_name="jit(apply)/_Net/depthwise/mul"}
  ROOT %a.1 = f32[8,4]{1,0} add(%k.1, %p), metadata={op_name="jit(apply)/_Net/add"}
}

%fused.3 (p: f32[8,4]) -> f32[8,4] {
  %n.1 = f32[8,4]{1,0} multiply(%p, %p), metadata={op_name="jit(apply)/_Net/conv_norm/mul"}
  ROOT %n.2 = f32[8,4]{1,0} pad(%n.1, %p), metadata={op_name="jit(apply)/_Net/depthwise/pad"}
}

%fused.4 (p: f32[4,8]) -> f32[8,4] {
  ROOT %w.1 = f32[8,4]{1,0} transpose(%p), metadata={op_name="jit(apply)/_Net/conv/transpose"}
}

ENTRY %main.12 (x: f32[8,4]) -> f32[8] {
  %x = f32[8,4]{1,0} parameter(0), metadata={op_name="x"}
  %dot.5 = f32[8,4]{1,0} dot(%x, %x), metadata={op_name="jit(apply)/_Net/conv/dot_general" stack_frame_id=3}
  %gemm.1 = (f32[8,4]{1,0}, s8[64]{0}) custom-call(%x, %x), custom_call_target="__cublas$gemm"
  %dot.55 = f32[8,4]{1,0} dot(%x, %x)
  %dot.6 = f32[8,4]{1,0} dot(%x, %x)
  %bias_fusion = f32[8,4]{1,0} fusion(%x, %dot.6), calls=%fused.4, metadata={op_name="jit(apply)/_Net/conv/add"}
  %late_add = f32[8,4]{1,0} add(%dot.5, %x), metadata={op_name="jit(apply)/_Net/depthwise/add"}
  %shuffle_fusion = f32[4,8]{1,0} fusion(%dot.5), kind=kLoop, calls=%fused.1
  %taps_fusion.2 = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused.2, metadata={op_name="jit(apply)/_Net/add"}
  %norm_fusion = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused.3
  %kernel_fusion = f32[8,4]{1,0} fusion(%x), calls=%fused.4, metadata={op_name="jit(apply)/_Net/conv/transpose"}
  %while.1 = f32[8,4]{1,0} while(%x), condition=%c, body=%b
  ROOT %reduce.1 = f32[8]{0} reduce(%x, %x), dimensions={1}, to_apply=%region_0.1
}
"""


def test_kinds_and_layers_of_a_program_are_read_off_its_text():
    found = instructions(TEXT, layers(trace(_Net(), (1, 8, 8, 4))))
    expected = {
        "dot.5": ("convolution", "conv"),
        "gemm.1": ("convolution", ""),
        "dot.55": ("convolution", ""),
        "dot.6": ("convolution", "conv"),  # its name is lost, that of what adds the bias is not
        "shuffle_fusion": ("shuffle", ""),
        "taps_fusion.2": ("convolution", "depthwise"),
        "norm_fusion": ("element-wise", ""),
        "kernel_fusion": ("data movement", "conv"),
        "while.1": ("", ""),
        "reduce.1": ("reduction", ""),
    }
    assert {name: (found[name].kind, found[name].layer) for name in expected} == expected


def test_instructions_at_the_same_time_share_it_and_gaps_are_the_rest():
    """a: 0-4, b: 2-6 beside it, nothing 6-7, c: 7-8."""
    found = {"a": Instruction("convolution", "x"), "b": Instruction("shuffle", "y"), "c": Instruction("shuffle", "x")}
    split = module._split([("c", 7.0, 8.0), ("a", 0.0, 4.0), ("b", 2.0, 6.0)], found)
    assert split.total_s == 8.0
    assert {kind: seconds for kind, seconds in split.kinds.items() if seconds} == {
        "convolution": 3.0,
        "shuffle": 4.0,
        "rest": 1.0,
    }
    assert split.layers == {"x": 4.0, "y": 3.0} and sum(split.shares.values()) == pytest.approx(1)


class _Event:
    def __init__(self, name, start_ns, end_ns, stats=()):
        self.name, self.start_ns, self.end_ns, self.stats = name, start_ns, end_ns, stats


def test_an_event_that_goes_on_elsewhere_lasts_until_its_end_is_told():
    found = {"dot.1": Instruction("convolution", ""), "w": Instruction("", "")}
    events = [_Event("end: dot.1", 50, 51), _Event("dot.1", 0, 10), _Event("other", 0, 9), _Event("w", 0, 99)]
    events += [_Event("end: dot.1", 80, 81), _Event("kernel", 70, 75, [("hlo_op", "dot.1")])]
    on_device = [(event, event.name == "kernel") for event in events]
    assert sorted(module._spans(on_device, found)) == [("dot.1", 0, 51), ("dot.1", 70, 81)]
    on_host = [(event, False) for event in events]
    assert ("dot.1", 70, 81) not in module._spans(on_host, found), "there nothing is looked up in statistics"


def test_a_network_spends_its_time_where_its_multiply_adds_are():
    """The 3x3 of 64 channels has 64 times the multiply-adds of the depthwise, and 59,000 times the classifier's."""
    x = jnp.ones((4, 32, 32, 64))
    variables = _Net().init(jax.random.key(0), x)
    found = breakdown(build(functools.partial(_Net().apply), variables, x), layers(trace(_Net(), x.shape)), num_calls=5)
    assert sum(found.kinds.values()) == pytest.approx(found.total_s) and set(found.kinds) == set(KINDS)
    assert found.layers["conv"] > found.layers["classifier"] and found.kinds["convolution"] > found.kinds["reduction"]


def test_a_profile_that_names_nothing_is_told(monkeypatch):
    monkeypatch.setattr(module, "_spans", lambda events, found: [])
    program = build(lambda x: x + 1, jnp.ones(3))
    with pytest.raises(ValueError, match=r"^breakdown: the profile on \w+ names no instruction[^\n]*$"):
        breakdown(program, [], num_calls=2)
