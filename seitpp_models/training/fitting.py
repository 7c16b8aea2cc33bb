"""The settings that a store decides where nobody asked for something else."""

from __future__ import annotations

from dataclasses import replace

from seitpp_models.networks.token_form import form_of
from seitpp_models.training.resolving import Settings
from tokenstore.augment.adapters import has_packaged_adapter
from tokenstore.errors import Parameter
from tokenstore.reading import TokenStore
from tokenstore.sources import Note

__all__ = ["OF_THE_ADAPTER", "fitted_to"]

OF_THE_ADAPTER = ("mixup", "adapter_draws")
"""The settings that have no effect without TokenAdapt."""
_DEFAULT = "default"


def fitted_to(settings: Settings, store: TokenStore) -> Settings:
    """Return the settings of a run on a store, with a note on each that the store decides.

    The default TokenAdapt is left out where the package has none for the store's codes, unless an argument or
    a recipe asks for it: a run without options then learns from every kind of tokens. Raises ArgumentError
    for arguments that have no effect without it.
    """
    if settings["adapter"] != _DEFAULT or "adapter" in settings.requested:
        return settings
    tokenizer, way = store.manifest.tokenizer, Parameter("adapter")
    if form_of(store).is_list:
        text = "no TokenAdapt, as lists of tokens have no places in the image"
    elif has_packaged_adapter(tokenizer):
        return settings
    else:
        text = f"no TokenAdapt, as none is packaged for the codes of {tokenizer}; {way} takes a file of one"
    settings.refuse_idle(OF_THE_ADAPTER, str(way), True, way)
    note = Note(text, [way] if str(way) in text else [])
    return replace(settings, values={**settings.values, "adapter": "none"}, notes=(*settings.notes, note))
