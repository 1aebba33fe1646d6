"""AMPLIFY's released weights (pairlab/AMPLIFY): names and layouts of the motion tokenizer and of forward dynamics."""

from __future__ import annotations

from t2p.convert.base import Row, linear
from t2p.convert.gpt import decoder_rows, encoder_rows


def motion_tokenizer_rows(depth: int) -> list[Row]:
    """depth: of the encoder. The rows of models.amplify.MotionTokenizer."""
    return [
        *linear("encoder.encoder_proj", "input"),
        *encoder_rows("encoder.encoder", "encoder", depth),
        *fsq_rows("quantize", "fsq"),
        *decoder_rows("decoder.decoder", "decoder", depth // 2),
        Row("decoder.track_pos_emb.weight", "tail/points"),
        Row("decoder.view_emb.weight", "tail/views"),
        *linear("decoder.decoder_mlp.0", "tail/fc1"),
        *linear("decoder.decoder_mlp.2", "tail/fc2"),
        *linear("decoder.decoder_proj", "tail/head"),
    ]


def forward_dynamics_rows(depth: int, bias: bool = False) -> list[Row]:
    """depth, bias: of the trunk. The rows of models.amplify.ForwardDynamics."""
    return [
        Row("sos_token", "start"),
        *linear("img_proj", "image"),
        *linear("text_proj", "text"),
        *fsq_rows("quantize", "fsq"),
        *encoder_rows("trunk", "trunk", depth, bias),
        *linear("unembed", "head"),
    ]


def fsq_rows(official: str, ours: str) -> list[Row]:
    return [
        *linear(f"{official}.project_in", f"{ours}/project_in"),
        *linear(f"{official}.project_out", f"{ours}/project_out"),
    ]
