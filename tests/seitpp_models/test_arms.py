"""The ingredients of augmentation as settings: each by itself, in the record of a run, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.network_commands import PRETRAIN, QUICK, SMALL, refused, seitpp
from helpers.network_stores import CLASSES, CODES, write_labelled
from helpers.token_kinds import write_lists

from seitpp_models.networks import form_of
from seitpp_models.training.augmentations import Augmentation, training_recipe
from seitpp_models.training.inputs import synonyms_of
from seitpp_models.training.resolving import resolve
from seitpp_models.training.settings import FinetuneSettings, PretrainSettings, SegmentSettings
from tokenstore.augment import INGREDIENTS, TokenEDA
from tokenstore.errors import ArgumentError
from tokenstore.format import FLIP
from tokenstore.reading import open_store

PARTNERS = np.arange(CODES, dtype=np.int32) ^ 1


def resolved(**arguments: Any) -> dict[str, Any]:
    return dict(resolve("finetune", FinetuneSettings, None, arguments).values)


@pytest.mark.parametrize("name", ["finetune", "seit"])
def test_ingredients_are_those_of_the_augmentation_but_for_what_is_asked_for(name: str) -> None:
    own = INGREDIENTS[name]
    arms = ("token_eda", "emb_noise", "color_adapt", "cutmix", "mixup", "flip")
    settings = resolved(augment=name)
    assert {arm: settings[arm] for arm in arms} == {arm: getattr(own, arm) for arm in arms}
    changed = resolved(augment=name, emb_noise=0.0, token_eda=True, cutmix=0.0, flip="none")
    assert (changed["emb_noise"], changed["color_adapt"]) == (0.0, own.color_adapt)
    assert (changed["token_eda"], changed["cutmix"], changed["flip"]) == (True, 0.0, "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augment": "none", "token_eda": True}, "token_eda=True: expected none with augment='none'"),
        ({"augment": "none", "cutmix": 1.0}, "cutmix=1.0: expected none with augment='none'"),
        ({"color_adapt": 0.5}, "emb_noise=0.75, color_adapt=0.5: expected probabilities with a sum up to 1"),
        ({"cutmix": -1.0}, "cutmix=-1.0: expected a number from 0"),
        ({"flip": "left"}, "flip='left': expected one of exact, naive, none"),
        ({"token_eda": "yes"}, "token_eda='yes': expected true or false"),
    ],
)
def test_ingredients_without_use_or_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        resolved(**arguments)
    assert resolved(augment="none", flip="none", cutmix=0.0)["cutmix"] == 0.0


def test_another_augmentation_replaces_the_ingredients_that_a_recipe_lists(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("augment: seit\nemb-noise: 0.1\ntoken-eda: false\n")
    kept = resolve("finetune", FinetuneSettings, recipe, {"augment": "seit"})
    assert (kept["emb_noise"], kept["token_eda"]) == (0.1, False)
    replaced = resolve("finetune", FinetuneSettings, recipe, {"augment": "finetune"})
    assert (replaced["emb_noise"], replaced["token_eda"]) == (0.75, False)
    recipe.write_text("emb-noise: 0.1\n")
    added = resolve("finetune", FinetuneSettings, recipe, {"augment": "seit"})
    assert (added["emb_noise"], added["token_eda"]) == (0.1, True)


def test_pretraining_changes_no_colours_and_segmentation_does() -> None:
    pretrain = resolve("pretrain", PretrainSettings, None, {})
    assert (pretrain["token_eda"], pretrain["emb_noise"], pretrain["color_adapt"]) == (False, 0.0, 0.0)
    segment = resolve("segment", SegmentSettings, None, {})
    assert segment["emb_noise"] == segment["color_adapt"] == 1 / 3
    assert "cutmix" not in segment.values


def test_a_run_says_which_ingredients_were_on_and_repeats_them(tmp_path: Path) -> None:
    store = write_labelled(tmp_path / "store", 32)
    run = ["finetune", store, *QUICK, "--epochs", 1]
    arms = ["--augment", "seit", "--no-token-eda", "--emb-noise", 0.25, "--color-adapt", 0, "--cutmix", 0]
    done = seitpp(*run, "--out", tmp_path / "run", *arms, "--flip", "naive")
    assert done.exit_code == 0, done.output
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (record["token_eda"], record["emb_noise"], record["color_adapt"]) == (False, 0.25, 0.0)
    on = record["run"]["augmentation"]
    assert (on["token_eda"], on["emb_noise"], on["cutmix"]) == (False, 0.25, 0.0)
    assert (on["flip"], on["adapter"]) == ("naive", "none")
    again = ["finetune", store, "--config", tmp_path / "run" / "config.yaml", "--out", tmp_path / "again"]
    assert seitpp(*again).exit_code == 0
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["run"]["augmentation"] == on
    text = refused(*run, "--out", tmp_path / "run", *arms, "--flip", "none", "--resume")
    assert "flip naive -> none" in " ".join(text.split())


def test_the_default_flip_is_named_by_what_the_store_has(tmp_path: Path) -> None:
    augmentation = Augmentation.named("seit")
    assert augmentation.facts(None, {})["flip"] == "none"
    assert augmentation.facts("default", {})["flip"] == "adapter"
    assert augmentation.facts("default", {FLIP: PARTNERS})["flip"] == "exact"
    assert Augmentation.named("none").facts(None, {}) == {}
    store = write_labelled(tmp_path / "store", 32)
    text = refused("finetune", store, "--out", tmp_path / "run", *QUICK, "--flip", "exact")
    assert "--flip exact: expected a store whose codes have a symmetry to flip by" in " ".join(text.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", 0.5, "--emb-noise", 0], "--noise goes with --emb-noise above 0"),
        (["--mixup", 0.5], "--mixup goes with --adapter"),
        (["--combination", "concatenate"], "--combination goes with vectors of several codes a position"),
    ],
)
def test_what_has_no_effect_is_refused(
    options: list[object], message: str, labelled: Path, tmp_path: Path
) -> None:
    done = seitpp("finetune", labelled, "--out", tmp_path / "run", *QUICK, *options)
    assert done.exit_code == 2, done.output
    text = done.output
    assert message in " ".join(text.split())


def test_mixup_of_an_adapter_that_nobody_asked_for_is_refused(labelled: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--device", "cpu", "--augment", "seit", "--mixup", 0.5]
    done = seitpp("finetune", labelled, "--out", tmp_path / "run", *options)
    assert done.exit_code == 2, done.output
    assert "--mixup goes with --adapter" in done.output


def test_token_eda_takes_the_synonyms_of_the_store(tmp_path: Path) -> None:
    near = np.stack([(np.arange(CODES, dtype=np.int32) + step) % CODES for step in (1, 2, 3)], 1)
    store = open_store(str(write_labelled(tmp_path / "store", 32, synonyms=near)))
    form = form_of(store)
    synonyms = synonyms_of(store, form)
    assert synonyms is not None
    assert np.array_equal(synonyms.numpy(), near)
    seit = Augmentation.named("seit")
    recipe = training_recipe(seit, form.vectors(), (8, 8), gives_codes=True, classes=3, synonyms=synonyms)
    (token_eda,) = (module for module in recipe.modules() if isinstance(module, TokenEDA))
    assert np.array_equal(token_eda.synonyms.synonyms.numpy(), near)
    plain = open_store(str(write_labelled(tmp_path / "plain", 32)))
    assert synonyms_of(plain, form_of(plain)) is None


def test_the_record_names_no_exact_flip_of_lists_which_have_no_places(tmp_path: Path) -> None:
    partners = (np.arange(32, dtype=np.int32) ^ 1)[None]
    store = write_lists(tmp_path / "store", symmetries=(FLIP,), permutations=partners)
    done = seitpp("finetune", store, "--out", tmp_path / "run", *QUICK, "--epochs", 1, "--augment", "seit")
    assert done.exit_code == 0, done.output
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert record["run"]["augmentation"]["flip"] == "none"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("pretrain", PRETRAIN),
        ("finetune", QUICK),
        ("segment", [*QUICK, "--classes", CLASSES + 1, "--head", "linear"]),
    ],
)
def test_an_adapter_of_other_codes_is_refused_where_no_fingerprint_tells(
    command: str, options: list[object], labelled: Path, tmp_path: Path
) -> None:
    text = refused(command, labelled, "--out", tmp_path / "run", *options, "--adapter", "default")
    expected = f"--adapter: expected one for {CODES} codes with vectors of 8 channels, found one for 2048"
    assert expected in " ".join(text.split())


def test_token_eda_of_a_small_codebook_takes_all_other_codes_as_synonyms() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    recipe = training_recipe(Augmentation.named("seit"), vectors, (8, 8), gives_codes=True, classes=3)
    (token_eda,) = (module for module in recipe.modules() if isinstance(module, TokenEDA))
    assert sorted(token_eda.synonyms.synonyms[0].tolist()) == [1, 2]
    single = training_recipe(Augmentation.named("seit"), vectors[:1], (8, 8), gives_codes=True, classes=3)
    (token_eda,) = (module for module in single.modules() if isinstance(module, TokenEDA))
    assert token_eda.synonyms is None
