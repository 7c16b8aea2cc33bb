"""The columns of samples: what the arrays beside the tokens hold, and by which codec."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.chunks import ChunkCodec
from tokenstore.codecs.ragged import Lists, Ragged, Texts
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.codecs.zstd import Zstd

__all__ = ["FORM_FEATURES", "NAME", "TEXT", "Column", "ColumnForm", "column_form", "list_column"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""The names that a column or a split can have: plain words, on every system and terminal."""
RAGGED_NBYTES = 128
"""The bytes of a text or a list, about, for the sizes of shards."""
FORM_FEATURES: tuple[str, ...] = (Ragged.feature, SoftLabels.feature)
"""The features of manifests that say which forms the arrays of a store have."""


class ColumnForm(Protocol):
    """The form of a column that is more than an array of numbers."""

    @property
    def feature(self) -> str:
        """The feature of a manifest that says that the store has such a column."""

    @property
    def data_type(self) -> str | None:
        """The Zarr data type of samples that are Python objects; None for numbers, of which a dtype tells."""

    @property
    def codec(self) -> ChunkCodec:
        """The codec of the column's array."""

    @property
    def attributes(self) -> dict[str, Any]:
        """The facts that the array's metadata states for this form, as JSON values."""

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise CodecError unless samples of this dtype and shape can have the form."""

    def problem(self, values: npt.NDArray[Any]) -> str | None:
        """Return what is wrong with stored values (n, *shape); None for right ones."""

    def values(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what stored values (n, *shape) mean, as a data set gives them."""


@dataclass(frozen=True)
class Column:
    """An aligned array beside the tokens: the dtype and the shape of one sample.

    Texts and lists are Python objects, one a sample, and `form` says which.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    form: ColumnForm | None = None
    """The form of a column that is no plain array of numbers."""

    def __str__(self) -> str:
        if self.form is not None:
            return str(self.form)
        return f"{self.dtype}{list(self.shape) if self.shape else ''}"

    @property
    def nbytes(self) -> int:
        """The bytes of one sample; about, where samples differ."""
        return RAGGED_NBYTES if self.is_ragged else self.dtype.itemsize * math.prod(self.shape)

    @property
    def is_ragged(self) -> bool:
        """True if samples differ in length: they are texts or lists."""
        return self.dtype.hasobject

    @property
    def codec(self) -> ChunkCodec:
        """The codec of the column's array."""
        return Zstd() if self.form is None else self.form.codec

    def values(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what stored values (n, *shape) mean, as a data set gives them."""
        return stored if self.form is None else self.form.values(stored)


TEXT = Column(np.dtype(object), (), Texts())
"""The column of texts."""


def list_column(dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Column:
    """Return the column of lists: a sample is an array (m, *shape). Raises CodecError for other dtypes."""
    return Column(np.dtype(object), (), Lists(dtype, shape))


def column_form(data_type: object, attributes: Mapping[str, Any]) -> ColumnForm | None:
    """Return the form of a column by its array's Zarr data type, and the attributes that this library wrote.

    Returns None for an array of numbers. Raises CodecError for attributes that contradict the data type.
    """
    if data_type == Texts.data_type:
        return Texts()
    if data_type == Lists.data_type:
        return Lists.from_attributes(attributes)
    return SoftLabels.from_attributes(attributes) if SoftLabels.feature in attributes else None
