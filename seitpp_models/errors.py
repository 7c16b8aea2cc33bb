"""Errors of networks and their training."""

from __future__ import annotations

from collections.abc import Iterable

from tokenstore.errors import Parameter, TokenstoreError

__all__ = ["ModelError", "SamplesError"]


class ModelError(TokenstoreError):
    """Weights, or a network and its data, do not fit each other."""


class SamplesError(ModelError):
    """Samples do not fit a network, or training on them gave no finite number.

    `row_numbers` are the samples' positions in their split.
    """

    def __init__(
        self, message: str, row_numbers: Iterable[int] = (), *, parameters: Iterable[Parameter] = ()
    ) -> None:
        super().__init__(message, parameters=parameters)
        self.row_numbers = tuple(map(int, row_numbers))
