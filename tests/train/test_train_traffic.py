"""Bytes moved, counted in programs whose bytes can be counted by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t2p.train.traffic import memory_traffic

# A loop of 4 that slices a [4, 100] array, adds the slice to on-chip memory and writes the sum in place.
LOOP = """HloModule jit_step

%slicing (p0: f32[4,100], p1: s32[]) -> f32[100] {
  %p0 = f32[4,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %dynamic-slice.1 = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %c), dynamic_slice_sizes={1,100}
  ROOT %bitcast.1 = f32[100]{0} bitcast(%dynamic-slice.1)
}

%updating (q0: f32[4,100], q1: f32[100], q2: s32[]) -> f32[4,100] {
  %q0 = f32[4,100]{1,0} parameter(0)
  %q1 = f32[100]{0} parameter(1)
  %q2 = s32[] parameter(2)
  %bitcast.2 = f32[1,100]{1,0} bitcast(%q1)
  ROOT %dynamic-update-slice.1 = f32[4,100]{1,0} dynamic-update-slice(%q0, %bitcast.2, %q2, %c)
}

%body (t: (s32[], f32[4,100], f32[4,100], f32[100])) -> (s32[], f32[4,100], f32[4,100], f32[100]) {
  %t = (s32[]{:T(128)S(6)}, f32[4,100]{1,0}, f32[4,100]{1,0}, f32[100]{0:T(128)S(1)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%t), index=0
  %x = f32[4,100]{1,0} get-tuple-element(%t), index=1
  %y = f32[4,100]{1,0} get-tuple-element(%t), index=2
  %chip = f32[100]{0:T(128)S(1)} get-tuple-element(%t), index=3
  %part = f32[100]{0} fusion(%x, %i), kind=kLoop, calls=%slicing
  %sum = f32[100]{0:T(128)S(1)} add(%part, %chip)
  %new = f32[4,100]{1,0} fusion(%y, /*index=1*/%sum, %i), kind=kLoop, calls=%updating
  ROOT %tuple.1 = (s32[]{:T(128)S(6)}, f32[4,100]{1,0}, f32[4,100]{1,0}, f32[100]{0:T(128)S(1)}) tuple(%i, %x, %new, %sum)
}

%condition (u: (s32[], f32[4,100], f32[4,100], f32[100])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)S(6)} compare(%n, %limit), direction=LT
}

ENTRY %main (a: bf16[10,10]) -> bf16[10,10] {
  %a = bf16[10,10]{1,0:T(8,128)(2,1)} parameter(0)
  %while.1 = (s32[]{:T(128)S(6)}, f32[4,100]{1,0}, f32[4,100]{1,0}, f32[100]{0:T(128)S(1)}) while(%tuple.0), condition=%condition, body=%body
  %copy-start.1 = (bf16[10,10]{1,0:S(1)}, bf16[10,10]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = bf16[10,10]{1,0:S(1)} copy-done(%copy-start.1)
  ROOT %product = bf16[10,10]{1,0} convolution(%copy-done.1, %a), dim_labels=bf_io->bf
}
"""  # noqa: E501


def test_slices_updates_loops_and_on_chip_memory():
    loop = 4 * (400 + 400 + 400 + 400)  # slice read and written; read again; update written
    assert memory_traffic(LOOP) == loop + 200 + 2 * 200  # copied onto the chip; product written, one operand read


def test_a_compiled_loop_counts_as_often_as_it_runs():
    def run(x, w, length):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=length)[0]

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    counts = [memory_traffic(jax.jit(run, static_argnums=2).lower(x, x, n).compile().as_text()) for n in (3, 9)]
    # Each time the product reads two arrays and writes one, and tanh, if it is not fused, reads and writes one.
    assert 6 * 3 <= (counts[1] - counts[0]) / (64 * 64 * 4) <= 6 * 5 + 0.1
