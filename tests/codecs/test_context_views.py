"""Views in the codecs: each has bytes of its own; `context` codes views given earlier ones."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import plain_context as plain
from helpers.context_models import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs import codec_class, codec_from_zarr, named_codec
from tokenstore.codecs.chunks import SampleSpans
from tokenstore.codecs.context import Context, fitting
from tokenstore.codecs.context.descent import FitSamples
from tokenstore.codecs.context.given import GivenViews
from tokenstore.codecs.views import Views
from tokenstore.errors import CodecError

Codes = npt.NDArray[Any]

TEN_CROP = tuple(
    (top, left, 64, 64, mirrored)
    for mirrored, lefts in ((0, (0, 6)), (1, (6, 0)))
    for top, left in (*itertools.product((0, 6), lefts), (3, 3))
)
"""The ten crops of 64 pixels of an image of 70: corners and centre, then those of the mirrored image."""
FLIP = ((0, 0, 64, 64, 0), (0, 0, 64, 64, 1))


def codec_of(
    sizes: tuple[int, ...], grid: tuple[int, ...], boxes: tuple[Any, ...], seed: int = 0
) -> tuple[Context, tuple[tuple[int, ...], ...]]:
    views = Views(len(boxes), boxes)
    references = views.references(grid[1:] if len(sizes) > 1 else grid)
    given_views = GivenViews(views, references, random_model(sizes, len(grid) + 1, seed=seed + 1))
    return Context(max(sizes), random_model(sizes, len(grid), seed=seed), given_views), references


def codes_of(sizes: tuple[int, ...], grid: tuple[int, ...], samples: int, views: int, seed: int) -> Codes:
    random = np.random.default_rng(seed)
    dtype = np.min_scalar_type(max(sizes))
    if len(sizes) == 1:
        return random.integers(0, sizes[0], (samples, views, *grid)).astype(dtype)
    planes = [random.integers(0, size, (samples, views, *grid[1:])) for size in sizes]
    return np.stack(planes, axis=2).astype(dtype)


def payload_of(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


CASES = [
    pytest.param((37,), (5, 6), FLIP, id="a flip"),
    pytest.param((391,), (4, 4), TEN_CROP, id="ten crops"),
    pytest.param((40, 300), (2, 3, 4), TEN_CROP[:4], id="two codebooks"),
    pytest.param((37,), (9,), FLIP, id="a list of tokens"),
    pytest.param((20,), (2, 3, 4), TEN_CROP[:3], id="frames"),
]


@pytest.mark.parametrize(
    ("views", "central"),
    [
        (Views(10, TEN_CROP), 4),
        (Views(10, TEN_CROP[5:] + TEN_CROP[:5]), 9),
        (Views(2, ((0, 0, 8, 8, 1), (0, 0, 8, 8, 0))), 1),
        (Views(3, ((2, 2, 4, 4, 0), (0, 0, 8, 8, 0), (0, 0, 8, 8, 0))), 1),
        (Views(2, ((0, 0, 8, 8, 1), (2, 2, 4, 4, 1))), 0),
        (Views(8), 0),
    ],
)
def test_the_central_view_is_upright_and_nearest_the_middle(views: Views, central: int) -> None:
    assert views.central == central


def test_a_cell_of_a_mirrored_view_is_the_mirrored_cell() -> None:
    views = Views(2, FLIP)
    assert views.cells(1, 0, (2, 3)).tolist() == [2, 1, 0, 5, 4, 3]
    assert views.references((2, 3)) == ((-1, -1, -1, -1), (-1, 0, -1, -1))


def test_a_cell_of_a_crop_is_the_one_under_its_middle_and_none_outside() -> None:
    views = Views(2, ((0, 0, 64, 64, 0), (16, 40, 64, 64, 0)))
    # cells of 16 pixels: one row further down; 40 pixels are two and a half cells, rounded up
    assert views.cells(1, 0, (4, 4)).reshape(4, 4).tolist() == [
        [7, -1, -1, -1],
        [11, -1, -1, -1],
        [15, -1, -1, -1],
        [-1, -1, -1, -1],
    ]


def test_a_view_is_predicted_from_its_mirror_image_and_the_best_aligned_crops() -> None:
    # corners are 6 pixels apart, three quarters of a cell of 8; the centre 3, three eighths
    references = Views(10, TEN_CROP).references((8, 8))
    same, mirrored, second, apart = map(list, zip(*references, strict=True))
    assert references[0] == (-1, -1, -1, -1)
    assert mirrored == [-1, -1, -1, -1, -1, 1, 0, 3, 2, 4]
    assert same == [-1, 0, 0, 2, -1, -1, 5, 5, 7, -1]
    assert second == [-1, -1, 1, 1, -1, -1, -1, 6, 6, -1]
    # of the corners, all equally far, the cells of the first lie before those of the centre on both axes
    assert apart == [-1, -1, -1, -1, 0, -1, -1, -1, -1, 5]


@pytest.mark.parametrize("shift", [-3, 3])
@pytest.mark.parametrize("mirrored", [0, 1])
def test_of_views_that_are_apart_the_one_is_taken_of_which_the_contexts_lie_around_a_cell(
    shift: int, mirrored: int
) -> None:
    boxes = tuple((0, 20 + at, 64, 64, mirrored) for at in (-shift, shift, 0))
    views = Views(3, boxes)
    (chosen,) = (row[3] for row in views.references((8, 8))[2:])
    other = boxes[chosen][1] - 20
    columns = 8 * np.arange(8)[:: -1 if mirrored else 1] + 4
    nearest = views.cells(2, chosen, (8, 8))[:8]
    inside = nearest >= 0
    place = nearest[inside] if not mirrored else 7 - nearest[inside]
    before = (columns[inside] - other) - (8 * place + 4)
    behind = before if not mirrored else -before
    assert (behind > 0).all(), "the next context is on the other side"


@pytest.mark.parametrize(("sizes", "grid", "boxes"), CASES)
def test_streams_of_views_equal_the_plain_version(
    sizes: tuple[int, ...], grid: tuple[int, ...], boxes: tuple[Any, ...]
) -> None:
    codec, references = codec_of(sizes, grid, boxes)
    codes = codes_of(sizes, grid, 3, len(boxes), seed=1)
    assert codec.given_views is not None
    streams, lengths = codec.given_views.encode(codes.reshape(3, len(boxes), -1), grid, codec.streams(grid))
    expected = [
        plain_view(codec, references, boxes, sample, view, grid, len(sizes))
        for sample in codes
        for view in range(len(boxes))
    ]
    assert lengths.tolist() == [len(stream) for stream in expected]
    assert streams == b"".join(expected)


def plain_view(
    codec: Context,
    references: tuple[tuple[int, ...], ...],
    boxes: tuple[Any, ...],
    sample: Codes,
    view: int,
    grid: tuple[int, ...],
    codebooks: int,
) -> bytes:
    """Return the stream of a view (V, *grid) as FORMAT.md states it, place by place."""
    if max(references[view]) < 0:
        return plain.encoded(codec.model, grid, sample[view].reshape(-1).tolist())
    assert codec.given_views is not None
    books = 1 if codebooks > 1 else 0
    frames = len(references[view])
    framed_grid = (*grid[:books], frames + 1, *grid[books:])
    known = {}
    codes = []
    for place in itertools.product(*map(range, framed_grid)):
        frame, cell = place[books], (*place[:books], *place[books + 1 :])
        if frame == frames:
            codes.append(int(sample[view][cell]))
            continue
        reference = references[view][frame]
        shown = None if reference < 0 else cell_below(boxes[view], boxes[reference], cell, grid, books)
        known[place] = -1 if shown is None else int(sample[reference][shown])
        codes.append(known[place])
    return plain.encoded(codec.given_views.model, framed_grid, codes, known)


def cell_below(
    box: Any, other: Any, cell: tuple[int, ...], grid: tuple[int, ...], books: int
) -> tuple[int, ...] | None:
    if len(grid) - books == 1:
        return cell
    below = []
    for axis, (index, side) in enumerate(zip(cell[-2:], grid[-2:], strict=True)):
        if axis and box[4]:
            index = side - 1 - index
        middle = box[axis] + (index + 0.5) * box[2 + axis] / side
        at = math.floor((middle - other[axis]) * side / other[2 + axis])
        if not 0 <= at < side:
            return None
        below.append(side - 1 - at if axis and other[4] else at)
    return (*cell[:-2], *below)


@pytest.mark.parametrize(("sizes", "grid", "boxes"), CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_views_are_read_alone_in_any_order(
    sizes: tuple[int, ...], grid: tuple[int, ...], boxes: tuple[Any, ...], data: st.DataObject
) -> None:
    codec, _ = codec_of(sizes, grid, boxes)
    views = len(boxes)
    chunks = [codes_of(sizes, grid, samples, views, seed=samples) for samples in (9, 1)]
    payloads = [payload_of(codec._coded(codes.reshape(-1, math.prod(grid)), grid)) for codes in chunks]
    payloads.append(
        payload_of(Context(max(sizes), None, GivenViews.of(Views(views, boxes))).encode(chunks[0], 9, 0))
    )
    chunks.append(chunks[0])
    spans = [codec.spans(payload, grid, at_most=9 * views) for payload in payloads]
    places = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9 * views - 1)), max_size=20))
    chunk = np.array([place[0] for place in places], np.int64)
    row = np.array([place[1] % (len(chunks[place[0]]) * views) for place in places], np.int64)
    out = np.empty((len(places), *grid), np.int64)
    codec.decode_spans(spans, chunk, row, out)
    for each, number, values in zip(chunk, row, out, strict=True):
        np.testing.assert_array_equal(values, chunks[each].reshape(-1, *grid)[number])


@pytest.mark.parametrize("name", ["bitpack", "context", "zstd"])
@pytest.mark.parametrize(("sizes", "grid", "boxes"), CASES)
def test_samples_of_views_survive_every_codec_and_its_metadata(
    name: str, sizes: tuple[int, ...], grid: tuple[int, ...], boxes: tuple[Any, ...]
) -> None:
    codec = named_codec(name, max(sizes), None, Views(len(boxes), boxes))
    if name == "context":
        codec, _ = codec_of(sizes, grid, boxes)
    codes = codes_of(sizes, grid, 4, len(boxes), seed=2)
    payload = payload_of(codec.encode(codes, 4, 0))
    again = codec_from_zarr(codec.zarr)
    assert again.zarr == codec.zarr
    assert again.views == (1 if name == "zstd" else len(boxes))
    out = np.empty_like(codes)
    again.decode(payload, out)
    np.testing.assert_array_equal(out, codes)


def test_a_packed_view_begins_at_a_byte() -> None:
    codec = codec_class("bitpack").for_codes(5, None, Views(2))
    codes = np.array([[[1, 2, 3], [4, 0, 1]]], np.uint8)
    assert codec.encode(codes, 1, 255).hex() == "d100" + "4400"
    assert codec.zarr[0]["configuration"] == {"codebook_size": 5, "views": 2}


def test_smooth_views_take_fewer_bytes_given_others() -> None:
    random = np.random.default_rng(0)
    image = np.cumsum(random.integers(-1, 2, (60, 8, 8)), axis=2) % 40
    mirror = np.random.default_rng(1).permutation(40)
    codes = np.stack([image, mirror[image[:, :, ::-1]]], axis=1).astype(np.uint8)
    views = Views(2, FLIP)
    codec = Context.fitted(codes, (40,), seed=0, total_codes=codes.size * 100, views=views)
    assert codec.given_views is not None
    assert codec.given_views.references == ((-1,), (0,))
    assert codec.given_views.model is not None
    alone = Context(40, codec.model, GivenViews.of(views))
    assert len(codec.encode(codes, 60, 255)) < 0.65 * len(alone.encode(codes, 60, 255))
    out = np.empty_like(codes)
    codec.decode(payload_of(codec.encode(codes, 60, 255)), out)
    np.testing.assert_array_equal(out, codes)


def test_views_are_given_others_where_no_model_of_the_first_pays_for_itself() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 16, (600, 4, 5)).astype(np.uint8)  # packing is the shortest
    codes = np.stack([image, image[:, :, ::-1]], axis=1)
    assert Context.fitted(image, (16,)).model is None
    codec = Context.fitted(codes, (16,), views=Views(2, FLIP))
    packed = Context(16, None, GivenViews.of(Views(2, FLIP)))
    assert len(codec.encode(codes, 600, 255)) < 0.75 * len(packed.encode(codes, 600, 255))


def test_a_fit_may_draw_every_view_of_every_image_with_its_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class SeenError(Exception):
        def __init__(self, samples: FitSamples) -> None:
            self.samples = samples

    def see(samples: FitSamples, *sizes: Any, roles: Any = (), **options: Any) -> Any:
        if roles:
            raise SeenError(samples)
        return fitted_planes(samples, *sizes, roles=roles, **options)

    fitted_planes = fitting.fitted_planes
    monkeypatch.setattr(fitting, "fitted_planes", see)
    images, views = Views(10, TEN_CROP), np.arange(10)
    codes = np.arange(40)[:, None] + 40 * views  # a code says its image and its view
    codes = np.broadcast_to(codes[..., None, None], (40, 10, 4, 4)).astype(np.uint16)
    with pytest.raises(SeenError) as seen:
        Context.fitted(codes, (400,), seed=0, total_codes=10**6, views=images)
    assert seen.value.samples.count == 40 * 9
    samples = seen.value.samples.draw(np.arange(40 * 9))
    own = samples[:, -1, 0, 0]
    assert len(own) == len(set(own.tolist()))
    references, roles = fitting.used_references(images.references((4, 4)))
    for sample, code in zip(samples, own.tolist(), strict=True):
        for frame, reference in zip(sample, references[code // 40], strict=False):
            expected = {-1} if reference < 0 else {-1, code % 40 + 40 * reference}
            assert set(frame.reshape(-1).tolist()) <= expected
    assert roles == ("same", "mirrored", "second", "apart")


def test_views_without_boxes_are_coded_alone() -> None:
    codes = codes_of((40,), (4, 4), 50, 3, seed=3) // 8
    codec = Context.fitted(codes, (40,), seed=0, total_codes=10**6, views=Views(3))
    assert codec.given_views is not None
    assert codec.given_views.model is None
    out = np.empty_like(codes)
    codec.decode(payload_of(codec.encode(codes, 50, 255)), out)
    np.testing.assert_array_equal(out, codes)


def test_a_damaged_reference_is_the_error_of_the_view_that_needs_it() -> None:
    codec, _ = codec_of((391,), (4, 4), TEN_CROP)
    codes = codes_of((391,), (4, 4), 3, 10, seed=1)
    payload = payload_of(codec._coded(codes.reshape(-1, 16), (4, 4))).copy()
    spans = codec.spans(payload, (4, 4), at_most=30)
    first = int(spans.addresses[10] - payload.ctypes.data)
    bad = None
    for value in range(256):
        payload[first : first + int(spans.lengths[10])] = value
        try:
            codec.decode_spans([spans], np.zeros(1, np.int64), np.array([10]), np.empty((1, 4, 4), np.uint16))
        except CodecError:
            bad = value
            break
    assert bad is not None, "no bytes of this model are refused"
    out = np.empty((2, 4, 4), np.uint16)
    codec.decode_spans([spans], np.zeros(2, np.int64), np.array([1, 25]), out)
    with pytest.raises(CodecError, match="sample 1: expected a stream"):
        codec.decode_spans([spans], np.zeros(2, np.int64), np.array([1, 17]), out)


WRONG = {
    "a box of four": {"boxes": [[0, 0, 8, 8], [0, 0, 8, 8, 1]]},
    "an empty box": {"boxes": [[0, 0, 8, 0, 0], [0, 0, 8, 8, 1]]},
    "mirrored twice": {"boxes": [[0, 0, 8, 8, 0], [0, 0, 8, 8, 2]]},
    "one view": {"boxes": 1, "references": [[-1]]},
    "a million views": {"boxes": 10**6, "references": [[]] * 3},
    "a later reference": {"references": [[-1], [1]]},
    "references of three views": {"references": [[-1], [0], [0]]},
    "unequal references": {"references": [[-1], []]},
    "a reference without a model": {"model": None},
    "a model without references": {"references": [[-1], [-1]]},
    "a model that is none": {"model": "AAAA"},
    "no boxes": {"boxes": 2},
    "a true number": {"boxes": True},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_views_in_metadata_are_refused(change: dict[str, Any]) -> None:
    views = Views(2, FLIP)
    right = Context(40, random_model((40,), 2), GivenViews(views, ((-1,), (0,)), random_model((40,), 3)))
    (codec,) = right.zarr
    configuration = codec["configuration"]
    configuration["views"] = {**configuration["views"], **change}
    with pytest.raises(CodecError):
        codec_from_zarr([codec]).check_codes((4, 4), (40,))


@pytest.mark.parametrize("views", [1, 0, True, "2", 1000, None])
def test_wrong_views_of_bitpack_are_refused(views: object) -> None:
    configuration = {"codebook_size": 40, "views": views}
    with pytest.raises(CodecError, match="views"):
        codec_from_zarr([{"name": "tokenstore.bitpack", "configuration": configuration}])


def test_streams_that_are_no_whole_samples_are_refused() -> None:
    codec, _ = codec_of((37,), (5, 6), FLIP)
    whole = codec_of((37,), (5, 6), FLIP)[0]
    single = Context(37, whole.model)
    payload = payload_of(single._coded(codes_of((37,), (5, 6), 3, 1, 0).reshape(3, 30), (5, 6)))
    with pytest.raises(CodecError, match="2 views of every sample, found 3 streams"):
        codec.spans(payload, (5, 6), at_most=100)
    assert isinstance(single.spans(payload, (5, 6), at_most=3), SampleSpans)
