"""Collectives read from the text of compiled programs; the lines are XLA's for a TPU and for a CPU, shortened."""

from __future__ import annotations

import pytest

from t2p.train.hlo import Collective, collectives, ring_bytes

MESH = {"data": 2, "fsdp": 4, "tensor": 1}

# A loop of 3 that gathers weights, one asynchronous gather in two pieces, and a reduce-scatter as TPUs have it.
TPU = """HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0: bf16[32,24]) -> bf16[32,96] {
  %all-gather.50 = bf16[32,96]{0,1:T(8,128)(2,1)} all-gather(%param_0), channel_id=9, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="1"}
}

%fused_computation.2 (param_0.1: bf16[32,24]) -> bf16[32,96] {
  %all-gather.52 = bf16[32,96]{0,1:T(8,128)(2,1)S(1)} all-gather(%param_0.1), channel_id=9, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="1"}
}

%all-reduce-scatter.2 (input_0: f32[128,32]) -> (f32[32,32]) {
  %all-reduce.60 = (f32[128,32]{1,0:T(8,128)}, f32[8]{0}) all-reduce(%input_0, %pad.69), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.11.clone
  ROOT %tuple.132 = (f32[32,32]{1,0:T(8,128)S(1)}) tuple(%dynamic-slice.186)
}

%condition (param: (s32[], bf16[16])) -> pred[] {
  %constant.322 = s32[]{:T(128)} constant(3)
  %get-tuple-element.860 = s32[]{:T(128)} get-tuple-element(%param), index=0
  ROOT %lt.34 = pred[]{:T(512)} compare(%get-tuple-element.860, %constant.322), direction=LT
}

%body (param.1: (s32[], bf16[16])) -> (s32[], bf16[16]) {
  %all-gather.8 = bf16[16]{0:T(8,128)(2,1)S(1)} all-gather(%convert.214), channel_id=14, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
}

ENTRY %main.1 (state: f32[8]) -> f32[8] {
  %async-collective-start = (bf16[32,24]{0,1}, bf16[32,96]{0,1}, u32[]{:S(2)}) fusion(%convert.156), kind=kCustom, calls=%fused_computation.1
  %async-collective-done = bf16[32,96]{0,1} fusion(%get-tuple-element.1), kind=kCustom, calls=%fused_computation.2
  %while.48 = (s32[]{:T(128)}, bf16[16]{0}) while(%tuple.1), condition=%condition, body=%body, metadata={op_name="while"}
  %fusion.268 = (f32[32,32]{1,0}) fusion(%fusion.165), kind=kCustom, calls=%all-reduce-scatter.2
  %all-reduce.32 = (f32[10]{0:T(128)S(1)}, /*index=1*/s32[]{:T(128)}) all-reduce(%a, %b), channel_id=3, replica_groups=[4,2]<=[2,4]T(1,0), use_global_device_ids=true, to_apply=%region
  %all-reduce.34 = f32[100]{0} all-reduce(%c), channel_id=4, replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%region
  %all-reduce.35 = f32[100]{0} all-reduce(%c), channel_id=5, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%region
  %collective-permute-start = (bf16[3,1,8]{2,0,1}, bf16[3,1,8]{2,0,1}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%fusion.284), channel_id=2, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
}
"""  # noqa: E501

CPU = """HloModule jit_step

%body.2 (arg: (s32[], f32[6])) -> (s32[], f32[6]) {
  %all-reduce.1 = f32[6]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
}

%cond (arg.1: (s32[], f32[6])) -> pred[] {
  ROOT %fusion.1 = pred[] fusion(%arg.1), kind=kLoop, calls=%wrapped_compare
}

ENTRY %main (state: f32[6]) -> f32[6] {
  %while.1 = (s32[], f32[6]{0}) while(%tuple), condition=%cond, body=%body.2, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  %all-gather-start = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%y), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  %all-to-all.1 = f32[4,4]{1,0} all-to-all(%z), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  %reduce-scatter.1 = f32[3]{0} reduce-scatter(%z), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%sum
  %reduce-scatter.2 = f32[3]{0} reduce-scatter(%z), channel_id=5, replica_groups=[8,1]<=[8], dimensions={0}, to_apply=%sum
}
"""  # noqa: E501


def test_a_tpu_program_is_counted_by_kind_and_axes():
    found = {(c.kind, c.axes): c for c in collectives(TPU, MESH)}
    both = ("data", "fsdp")
    # The gather in pieces once, and the one in the loop three times.
    assert found.pop(("all-gather", ("fsdp",))) == Collective("all-gather", ("fsdp",), 4, 4, 2 * 32 * 96 + 3 * 2 * 16)
    assert found.pop(("reduce-scatter", ("fsdp",))).bytes == 4 * (128 * 32 + 8)
    assert found.pop(("all-reduce", ("data",))) == Collective("all-reduce", ("data",), 2, 1, 44)
    assert found.pop(("all-reduce", both)) == Collective("all-reduce", both, 8, 1, 400)
    assert found.pop(("all-reduce", ("?",))) == Collective("all-reduce", ("?",), 2, 1, 400)  # pairs: half of fsdp
    assert found.pop(("collective-permute", ("fsdp",))).bytes == 2 * 24
    assert not found


def test_a_cpu_program_is_counted_too():
    found = {c.kind: (c.count, c.bytes, c.group) for c in collectives(CPU, MESH)}
    assert found == {
        "all-reduce": (5, 5 * 24, 8),
        "all-gather": (1, 256, 4),
        "all-to-all": (1, 64, 4),
        "reduce-scatter": (1, 48, 4),  # and none of one device
    }


def test_largest_senders_come_first():
    sent = [c.sent for c in collectives(TPU, MESH)]
    assert sent == sorted(sent, reverse=True)
    assert collectives("", MESH) == ()


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_ring_bytes(kind, sent):
    assert ring_bytes(kind, 100, 4) == sent
