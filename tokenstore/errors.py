"""Every error tokenstore raises on purpose.

    TokenstoreError
    ├── ArgumentError          arguments of a call cannot be used
    ├── ManifestError          the manifest is not valid
    │   └── VersionError       the store needs a newer tokenstore
    ├── StoreError             a store, as a whole, cannot be used
    │   ├── NotAStoreError     nothing there, or something else
    │   ├── IncompleteStoreError   a conversion has not finished
    │   ├── StoreExistsError   writing would overwrite
    │   ├── StoreChangedError  the store was replaced after it was opened
    │   └── StorageError       storage did not answer, or refused
    ├── DamageError            stored bytes are not those that were written
    ├── CodecError             codes do not fit the codec, or bytes do not decode
    ├── SourceError            a source, as a whole, cannot be read
    │   ├── SampleError        one sample of a source cannot be read
    │   ├── SourceChangedError a file of a source was replaced after it was listed
    │   └── WorkerError        a process that works on samples has died
    ├── TokenizerError         a tokenizer cannot be loaded, or does not fit
    ├── AdapterError           weights of a TokenAdapt cannot be loaded, or do not fit
    ├── ConversionError        a conversion stopped; the store can be resumed
    └── ResumeError            a loader's state does not fit its dataset

A message says what was expected, what was found, where, and what to do next. Where a parameter of the
call would help, the message names it as Python does, and the error carries it as a `Parameter`, from
which a command line makes its own option:

    resume = Parameter("resume", True)
    raise StoreExistsError(f"{target}: ... Go on with {resume}, or remove it", parameters=[resume])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LONGEST_NAME = 200
"""The characters of a name that suggestions are looked for with: their time grows with its square."""


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: `. Did you mean 'a'?`, or nothing.

    The names of `known` that are suggested are like the value, whatever their case.
    """
    from difflib import get_close_matches

    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.casefold(), name)
    similar = get_close_matches(str(value)[:_LONGEST_NAME].casefold(), list(folded))
    return f". Did you mean {' or '.join(repr(folded[name]) for name in similar)}?" if similar else ""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a Python call that an error's message names, such as `resume=True`.

    Without a value, the message says `name=...`.
    """

    name: str
    value: object = None

    def __str__(self) -> str:
        return f"{self.name}={'...' if self.value is None else repr(self.value)}"


class TokenstoreError(Exception):
    """The base of all errors raised by tokenstore.

    `parameters` are the parameters that the message names.
    """

    def __init__(self, message: str = "", *, parameters: Iterable[Parameter] = ()) -> None:
        super().__init__(message)
        self.parameters = tuple(parameters)


class ArgumentError(TokenstoreError, ValueError):
    """Arguments of a call contradict each other, have no use, or are out of range."""


class ManifestError(TokenstoreError, ValueError):
    """A store's manifest is missing a field, or a field has a wrong value."""


class VersionError(ManifestError):
    """The store was written in a format, or with a feature, that this version does not know."""


class StoreError(TokenstoreError):
    """A store as a whole cannot be used."""


class NotAStoreError(StoreError, FileNotFoundError):
    """The path has no token store."""


class IncompleteStoreError(StoreError):
    """The store's conversion has not finished, so it has no manifest yet."""


class StoreExistsError(StoreError, FileExistsError):
    """Something is already at the path where a store was to be written."""


class StoreChangedError(StoreError):
    """The store is no longer the one that was opened: it was recoded, replaced or removed."""


class StorageError(StoreError, OSError):
    """Storage did not answer in time, or refused what was asked of it."""


class DamageError(TokenstoreError):
    """Stored bytes are missing or are not those that were written."""


class CodecError(TokenstoreError, ValueError):
    """Codes do not fit their codec, or bytes are not a valid encoding.

    `sample` is the bad sample's position in the call's batch, None where the error concerns no single
    sample. `place` is the place in the sample, such as "position 3". The message begins with both;
    `problem` is the rest of it.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        sample: int | None = None,
        place: str | None = None,
        parameters: Iterable[Parameter] = (),
    ) -> None:
        where = ", ".join([*([] if sample is None else [f"sample {sample}"]), *([place] if place else [])])
        super().__init__(f"{where}: {problem}" if where else problem, parameters=parameters)
        self.problem = problem
        self.sample = sample
        self.place = place

    def at(self, sample: int | None) -> CodecError:
        """Return the same error for another batch, in which the sample has the position `sample`.

        None leaves the sample out of the message, for callers who name it themselves.
        """
        return CodecError(self.problem, sample=sample, place=self.place, parameters=self.parameters)


class SourceError(TokenstoreError):
    """A source of samples cannot be opened, or contradicts itself."""


class SampleError(SourceError):
    """One sample of a source cannot be read; the message is the reason."""


class SourceChangedError(SourceError):
    """A file of a source was replaced after it was listed, so that its samples are others."""


class WorkerError(SourceError):
    """A process that works on samples of a source has died."""


class TokenizerError(TokenstoreError):
    """A tokenizer cannot be loaded, or does not fit the data it was given."""


class AdapterError(TokenstoreError):
    """The weights of a TokenAdapt cannot be loaded, or do not fit the data."""


class DependencyError(TokenstoreError, ImportError):
    """An installed package does not fit another; the message says which version does."""


class ConversionError(TokenstoreError):
    """A conversion stopped before its end; the message says how to go on.

    `skipped` holds the samples that could not be read so far: (source name, reason).
    """

    def __init__(
        self,
        message: str,
        skipped: Sequence[tuple[str, str]] = (),
        *,
        parameters: Iterable[Parameter] = (),
    ) -> None:
        super().__init__(message, parameters=parameters)
        self.skipped = tuple(skipped)


class ResumeError(TokenstoreError, ValueError):
    """A loader's state is none, or was taken with other samples."""
