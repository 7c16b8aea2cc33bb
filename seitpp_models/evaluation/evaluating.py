"""The front door of evaluation: a network in a file, measured on a token store or on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from seitpp_models.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from seitpp_models.evaluation.measures import Measure
from seitpp_models.evaluation.on_images import (
    CLEAN,
    Condition,
    Decoding,
    evaluate_images,
    options_for,
    tokenizer_for,
)
from seitpp_models.evaluation.on_stores import Batches, chosen_split, evaluate_store
from seitpp_models.evaluation.predictions import PixelLog, PredictionLog
from seitpp_models.evaluation.results import Evaluation, ImageFacts
from seitpp_models.evaluation.run_files import RunFiles
from seitpp_models.evaluation.settings import (
    EvaluationSettings,
    ImageSettings,
    MeasureSettings,
    check_choices,
    idle,
    sorted_settings,
)
from seitpp_models.weights.files import TrainedModel
from seitpp_models.weights.transfer import trained_network
from tokenstore.errors import ArgumentError, Parameter, SourceError
from tokenstore.format import Preprocessing
from tokenstore.machine import available_cores
from tokenstore.networks.threads import torch_threads
from tokenstore.reading import TokenStore
from tokenstore.reading.open import as_store
from tokenstore.sources import open_source
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.tokenizers.registry import check_device

__all__ = ["ALL_CORRUPTIONS", "evaluate"]

ALL_CORRUPTIONS = "all"
"""The name that stands for every corruption."""


def evaluate(
    model: str | Path | TrainedModel,
    *,
    store: str | Path | TokenStore | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int | None = None,
    threads: int | None = None,
    storage_options: dict[str, Any] | None = None,
    on_begin: Callable[[int], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    **settings: Unpack[EvaluationSettings],
) -> Evaluation:
    """Measure a network on a token store, or a classifier on images, and return its figures.

    A classifier has top-1 and, of more than five classes, top-5; a segmenter, on a store with masks, mean
    IoU and the IoU of each class; a masked-token model its loss. Images become tokens first.

        evaluate("model.safetensors", images="imagenet/val", corruptions=["gaussian_noise"], severities=[3])

    Args:
        model: A network, its file, a published checkpoint, or a run's folder, which gets the figures too.
        store: A token store: an open one, or its path or fsspec URL. Either `store` or `images` is given.
        images: A source of images with classes, as conversions read them.
        split: The split; by default val, or the only one.
        device: The device that networks run on.
        batch_size: The samples of a batch.
        workers: Processes that decode images, or threads that decode codes; by default one a core.
        threads: Threads that compute on a CPU; by default one a core.
        storage_options: fsspec options of a remote store.
        on_begin: Called once with the number of samples.
        on_progress: Called with the number of samples done.
        **settings: See `EvaluationSettings`.

    Raises:
        ArgumentError: Arguments contradict each other, or one has no effect on such a network.
        ModelError: Network, codes and classes do not fit each other.
        StoreError, SourceError, TokenizerError: The store, the images or the tokenizer cannot be opened.
    """
    of_images, of_measure = sorted_settings(settings)
    _check(store, images, of_images, storage_options)
    of_measure.check_files()
    check_device(device)
    workers, threads = available_cores() if workers is None else workers, threads or available_cores()
    run = RunFiles.of(model)
    trained, of_measure = _opened(model, run, of_measure)
    measure = of_measure.measure(trained)
    progress = _Progress(on_begin, on_progress)
    with torch_threads(threads):
        trained.model.to(device)
        if store is not None:
            opened = as_store(store if isinstance(store, TokenStore) else str(store), storage_options)
            batches = Batches(batch_size, workers, device)
            result = _on_store(trained, opened, split, measure, of_measure, batches, progress)
        else:
            decoding = Decoding(batch_size, workers, threads, of_measure.seed)
            result = _on_images(trained, str(images), split, of_images, of_measure, decoding, progress)
    return result if run is None else run.write(result, of_measure.predictions)


def _opened(
    model: str | Path | TrainedModel, run: RunFiles | None, settings: MeasureSettings
) -> tuple[TrainedModel, MeasureSettings]:
    """Return the network, and the settings with the file of predictions that its run's folder gets.

    Raises ModelError if the file of the network cannot be read.
    """
    if (isinstance(model, TrainedModel) or run is not None) and settings.average:
        raise idle("average", "a published checkpoint")
    if isinstance(model, TrainedModel):
        return model, settings
    if run is None:
        return trained_network(model, average=settings.average), settings
    trained = trained_network(run.weights)
    return trained, settings.kept_at(run.predictions(trained))


@dataclass(frozen=True)
class _Progress:
    """The callbacks of an evaluation."""

    on_begin: Callable[[int], None] | None
    on_progress: Callable[[int], None] | None

    def begin(self, count: int) -> None:
        """Say how many samples the evaluation has."""
        if self.on_begin is not None:
            self.on_begin(count)


def _check(
    store: object,
    images: object,
    settings: ImageSettings,
    storage_options: dict[str, Any] | None,
) -> None:
    """Raise ArgumentError for arguments that contradict each other, before anything is read."""
    if (store is None) == (images is None):
        parameters = Parameter("store"), Parameter("images")
        raise ArgumentError(
            f"expected {parameters[0]} or {parameters[1]}, one of them", parameters=parameters
        )
    images_parameter = Parameter("images")
    for name, value in vars(settings).items():
        if store is not None and value not in (None, (), False) and name != "severities":
            raise idle(name, str(images_parameter), images_parameter)
    if images is not None and storage_options is not None:
        raise idle("storage_options", str(Parameter("store")), Parameter("store"))
    if settings.severities and not settings.corruptions:
        raise idle("severities", str(Parameter("corruptions")), Parameter("corruptions"))
    check_choices("corruptions", settings.corruptions, [*CORRUPTIONS, ALL_CORRUPTIONS])
    check_choices("severities", settings.severities, SEVERITIES)


def _on_store(
    trained: TrainedModel,
    store: TokenStore,
    split: str | None,
    measure: Measure,
    settings: MeasureSettings,
    batches: Batches,
    progress: _Progress,
) -> Evaluation:
    place = store.files.storage.url
    split = chosen_split(store.splits, split, place)
    count, done = len(store[split]), 0

    def on_batch(size: int) -> None:
        nonlocal done
        done += size
        if progress.on_progress is not None:
            progress.on_progress(done)

    progress.begin(count)
    figures = evaluate_store(
        trained, store, split, measure=measure, crop=settings.sides, batches=batches, on_batch=on_batch
    )
    steps = store.manifest.preprocessing
    notes = [] if None in (steps, trained.preprocessing) else _notes(trained, steps)
    log: PredictionLog | PixelLog | None = getattr(measure, "log", None)
    predictions = {} if log is None else {CLEAN: log.finish(np.arange(count))}
    evaluation = Evaluation(
        trained.kind, place, split, count, {CLEAN: figures}, trained.labels, None, notes, predictions
    )
    settings.write(evaluation, lambda: store[split].samples_table()["source"].to_pylist())
    return evaluation


def _notes(trained: TrainedModel, actual: Preprocessing | None) -> list[str]:
    """Return what has to be said of images that were prepared by the steps `found`."""
    if trained.preprocessing is None:
        return [f"the network's file does not say how its training images were prepared; assumed: {actual}"]
    if trained.preprocessing != actual:
        return [f"the network was trained on images of {trained.preprocessing}, and these are of {actual}"]
    return []


def _on_images(
    trained: TrainedModel,
    place: str,
    split: str | None,
    settings: ImageSettings,
    measure: MeasureSettings,
    decoding: Decoding,
    progress: _Progress,
) -> Evaluation:
    source = open_source(place, **settings.of_source)
    if source.images is None:
        raise SourceError(
            f"{place}: expected images, found ready codes ({source.kind}); convert them to a store"
        )
    device = str(next(trained.model.parameters()).device)
    tokenizer = tokenizer_for(trained, settings.tokenizer, device)
    encoder = Encoder(tokenizer, options_for(trained, tokenizer, settings.image_size, settings.resize))
    split = chosen_split(tuple(source.splits), split, source.location)
    progress.begin(len(source.splits[split]))
    evaluation = evaluate_images(
        trained,
        source.images,
        split,
        encoder,
        _conditions(settings.corruptions, settings.severities),
        crop=measure.sides,
        all_classes=measure.all_classes,
        keep_predictions=measure.keeps_predictions,
        decoding=decoding,
        on_progress=progress.on_progress,
    )
    options = encoder.options
    facts = ImageFacts(
        skipped=evaluation.skipped,
        classes=None if source.class_names is None else len(source.class_names),
        all_classes=measure.all_classes,
        tokenizer=encoder.tokenizer.name,
        image_size=(options.height, options.width),
        resize=options.resize,
        grid=encoder.grid,
        crop=evaluation.crop,
        seed=decoding.seed,
    )
    result = Evaluation(
        trained.kind,
        source.location,
        split,
        evaluation.samples,
        evaluation.figures,
        trained.labels,
        facts,
        _notes(trained, Preprocessing(options.height, options.width, options.resize, options.filter)),
        evaluation.predictions,
    )
    samples = source.splits[split]
    measure.write(result, lambda: samples.names(0, len(samples)).to_pylist())
    return result


def _conditions(corruptions: Sequence[str], severities: Sequence[int]) -> list[Condition]:
    """Return images as they are, then every corruption in every severity, each once."""
    names = list(CORRUPTIONS) if ALL_CORRUPTIONS in corruptions else list(dict.fromkeys(corruptions))
    levels = sorted(set(severities)) or SEVERITIES
    return [CLEAN, *(Condition(name, level) for name in names for level in levels)]
