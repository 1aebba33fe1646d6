"""Records: arrays, flags and images come back, and what is not what it says is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from t2p.data import codec


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.int64, np.bool_, ">f4"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
def test_arrays_round_trip_to_the_bit(array):
    back = codec.unpack_array(codec.unpack(codec.pack({"a": codec.pack_array(array)}))["a"])
    assert back.dtype == array.dtype.newbyteorder("<") and back.shape == array.shape
    assert back.tobytes() == array.astype(back.dtype).tobytes()


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)))
def test_flags_take_a_bit_each(flags):
    packed = codec.pack_bits(flags)
    assert len(packed["bits"]) == -(-flags.size // 8)
    np.testing.assert_array_equal(codec.unpack_bits(packed), flags)


@pytest.mark.parametrize(
    "change",
    [{"shape": [3, 2]}, {"shape": [-1, 4]}, {"shape": [2.0, 2]}, {"dtype": "<f8"}, {"dtype": "|O"}, {"data": "text"}],
)
def test_arrays_that_are_not_what_they_say_are_refused(change):
    packed = codec.pack_array(np.zeros((2, 2), np.float32))
    with pytest.raises(codec.CodecError):
        codec.unpack_array({**packed, **change})


def test_objects_are_not_stored_and_odd_records_are_refused():
    with pytest.raises(codec.CodecError, match="object"):
        codec.pack_array(np.array([{}]))
    for data in (b"", b"\xc1", codec.pack({"a": 1})[:-1], b"\x93\x01\x02\x03", codec.pack({"a": 1}) + b"x"):
        with pytest.raises(codec.CodecError):
            codec.unpack(data)


def picture() -> np.ndarray:
    y, x = np.mgrid[:24, :36]
    return np.stack([5 * x, 8 * y, 3 * (x + y)], -1).astype(np.uint8)


def test_png_is_exact_and_jpeg_is_near():
    image = picture()
    np.testing.assert_array_equal(codec.decode_image(codec.encode_image(image, "png"), (24, 36)), image)
    back = codec.decode_image(codec.encode_image(image, "jpeg"), (24, 36))
    assert np.abs(back.astype(int) - image).mean() < 1.5


@pytest.mark.parametrize("name", codec.IMAGE_CODECS)
def test_damaged_images_and_other_sizes_are_refused(name):
    data = codec.encode_image(picture(), name)
    with pytest.raises(codec.CodecError, match="24 x 36 pixels, expected 36 x 24"):
        codec.decode_image(data, (36, 24))
    for bad in (b"", data[: len(data) // 2], data[:4] + bytes(len(data) - 4)):
        with pytest.raises(codec.CodecError):
            codec.decode_image(bad, (24, 36))


def test_pictures_without_three_colours_are_refused():
    grey = io.BytesIO()
    Image.fromarray(picture()[..., 0]).save(grey, "PNG")
    with pytest.raises(codec.CodecError, match="RGB"):
        codec.decode_image(grey.getvalue(), (24, 36))
    with pytest.raises(codec.CodecError, match="uint8"):
        codec.encode_image(picture()[..., 0], "png")
    with pytest.raises(codec.CodecError, match="codec"):
        codec.encode_image(picture(), "webp")
