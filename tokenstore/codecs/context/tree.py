"""The code tree: the decisions that name a code are the digits of its rank in base `fan`, highest first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import LANES

MAX_CODEBOOK_SIZE = 2**16
"""The most codes of a codebook that has a context model."""


@dataclass(frozen=True)
class CodeTree:
    """A tree of `levels` decisions of at most `fan` alternatives over `size` ranks (FORMAT.md, M24)."""

    size: int
    levels: int
    fan: int

    @classmethod
    def of(cls, size: int) -> CodeTree:
        """Return the tree of the fewest levels of at most 32 alternatives, and of these the narrowest."""
        levels = 0
        while LANES**levels < size:
            levels += 1
        fan = next((fan for fan in range(1, LANES + 1) if fan**levels >= size), LANES)
        return cls(size, levels, fan)

    def below(self, level: int) -> int:
        """Return the number of ranks below one child of a node at `level`."""
        return int(self.fan ** (self.levels - 1 - level))

    def children_at(self, level: int) -> int:
        """Return the number of children of all nodes at `level`: the next level's nodes, or the ranks."""
        return -(-self.size // self.below(level))

    def first_nodes(self) -> list[int]:
        """Return the number of each level's first node; nodes are numbered through all levels."""
        nodes = [1, *(self.children_at(level) for level in range(self.levels - 1))]
        return [sum(nodes[:level]) for level in range(self.levels)]

    @property
    def nodes(self) -> int:
        """The number of nodes: 0 for a tree without decisions."""
        return 1 + sum(self.children_at(level) for level in range(self.levels - 1)) if self.levels else 0

    @property
    def children(self) -> int:
        """The number of children of all nodes, which is the number of rows of weights."""
        return sum(self.children_at(level) for level in range(self.levels))

    def child_places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the node (children,) and the digit (children,) of every child, by level and rank."""
        nodes, digits = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for level, first in enumerate(self.first_nodes()):
            child = np.arange(self.children_at(level))
            nodes.append(first + child // self.fan)
            digits.append(child % self.fan)
        return np.concatenate(nodes), np.concatenate(digits)
