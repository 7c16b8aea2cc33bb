"""The tree of decisions that names a code: its rank in base `fan`, most significant digit first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import LANES

MAX_CODEBOOK_SIZE = 2**16


@dataclass(frozen=True)
class CodeTree:
    """`levels` decisions of at most `fan` alternatives tell `size` ranks apart (FORMAT.md, section 7)."""

    size: int
    levels: int
    fan: int

    @classmethod
    def of(cls, size: int) -> CodeTree:
        """The tree with the fewest levels of at most 32 alternatives, and of these the narrowest."""
        levels = 0
        while LANES**levels < size:
            levels += 1
        fan = next((fan for fan in range(1, LANES + 1) if fan**levels >= size), LANES)
        return cls(size, levels, fan)

    def below(self, level: int) -> int:
        """Ranks below one child of a node at `level`."""
        return int(self.fan ** (self.levels - 1 - level))

    def children_at(self, level: int) -> int:
        """Children of all nodes at `level`: the nodes at the next, or the ranks."""
        return -(-self.size // self.below(level))

    def first_nodes(self) -> list[int]:
        """Each level's first node, in one numbering of all nodes."""
        nodes = [1, *(self.children_at(level) for level in range(self.levels - 1))]
        return [sum(nodes[:level]) for level in range(self.levels)]

    @property
    def nodes(self) -> int:
        return 1 + sum(self.children_at(level) for level in range(self.levels - 1)) if self.levels else 0

    @property
    def children(self) -> int:
        """Children of all nodes: the rows of weights there are."""
        return sum(self.children_at(level) for level in range(self.levels))

    def child_places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Node and digit of every child, in the order of levels and ranks."""
        nodes, digits = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for level, first in enumerate(self.first_nodes()):
            child = np.arange(self.children_at(level))
            nodes.append(first + child // self.fan)
            digits.append(child % self.fan)
        return np.concatenate(nodes), np.concatenate(digits)
