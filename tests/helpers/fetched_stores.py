"""A store of 300 samples that tests read from S3, and passes over it."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.fault_proxy import FaultProxy
from helpers.object_storage import S3Server
from helpers.stores import random_codes
from helpers.waiting import PATIENT
from tokenstore import TokenDataset, TokenLoader

SAMPLES = 300
CODES = random_codes(SAMPLES, (4, 6), 391)
LABELS = np.arange(SAMPLES, dtype=np.int32)


def opened(url: str, server: S3Server, proxy: FaultProxy, **options: Any) -> TokenDataset:
    """Open the store through a network that may fail."""
    options = {"retries": PATIENT, **options}
    return TokenDataset(url, storage_options=server.storage_options(proxy.url), **options)


def check_epoch(loader: TokenLoader) -> list[int]:
    """Check that every sample comes once, with its own codes; return row numbers in the order they came."""
    order = []
    for tokens, labels in loader:
        np.testing.assert_array_equal(tokens, CODES[labels])
        order += labels.tolist()
    assert sorted(order) == list(range(len(order)))
    return order
