"""What a study is: the runs it means, and what is said of one that means none."""

import re

import pytest

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.presets import load_preset
from fedrobust.running.central import Central
from fedrobust.running.preflight import check_settings
from fedrobust.storage.run_folder import RunFolder
from fedrobust.studies import load_study, study_names
from fedrobust.studies.plan import label_of, plan_sweep, select, training_flops, training_images

GOOD = """
description = "what it asks"
preset = "quickstart"
seeds = [0, 7]
skip = [{ pool.fraction = 0, pool.mode = ["replace", "control"] }]

[settings]
num-rounds = 3

[choices.method.fedavg]
strategy.name = "fedavg"

[choices.method.calfat]
strategy.name = "calfat"
attack.random-start = "gaussian"

[axes]
pool.mode = ["add", "replace", "control"]
pool.fraction = [0, 0.2]
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_every_combination_but_the_skipped(written):
    cells = list(load_study(written(GOOD)).cells())
    assert len(cells) == 2 * (2 * 3 - 2) * 2
    assert len({label_of(point) for point, _ in cells}) == len(cells)
    point, settings = cells[0]
    assert point == {"method": "fedavg", "pool.mode": "add", "pool.fraction": "0", "seed": "0"}
    assert settings["num-rounds"] == 3
    assert settings["data.name"] == "digits"
    assert label_of(point) == "method=fedavg,mode=add,fraction=0,seed=0"
    calfat = [settings for point, settings in cells if point["method"] == "calfat"]
    assert {s["attack.random-start"] for s in calfat} == {"gaussian"}


def test_axes_that_end_alike_keep_their_whole_name():
    assert label_of({"pool.fraction": "0.1", "x.fraction": "Dir(0.5), 2 %", "seed": "1"}) == (
        "pool.fraction=0.1,x.fraction=Dir0.5,2,seed=1"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('preset = "quickstart"', 'preset = "quikstart"', "unknown preset 'quikstart'; did you mean 'quickstart'?"),
        ('preset = "quickstart"', "", "mine.toml: preset: must name the preset"),
        ("seeds = [0, 7]", "seeds = [0, 0]", r"seeds = \[0, 0\]: must be a list of whole numbers"),
        ("seeds = [0, 7]", 'seeds = "0"', "seeds = '0': must be a list"),
        ("seeds", "seed", "mine.toml: unknown key 'seed'; did you mean 'seeds'?"),
        ("pool.fraction = [0, 0.2]", "pool.fractoin = [0, 0.2]", "axes: unknown setting 'pool.fractoin'; did you mean"),
        ("pool.fraction = [0, 0.2]", "pool.fraction = 0", "axes.pool.fraction = 0: must be a list"),
        ('strategy.name = "fedavg"', 'strategy.nam = "fedavg"', "choices.method.fedavg: unknown setting"),
        ("pool.fraction = 0, ", "pool.fraction = 0.3, ", "skip: unknown value of pool.fraction '0.3'"),
        ("{ pool.fraction = 0, ", "{ poll.fraction = 0, ", "skip: unknown axis 'poll.fraction'; did you mean"),
    ],
)
def test_a_mistake_is_named_with_its_place(written, old, new, said):
    with pytest.raises(ConfigError, match=said):
        load_study(written(GOOD.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings = 3", "mine.toml: settings = 3: must be a table, [settings]"),
        ("[[settings]]\nseed = 1", "must be a table, [settings]"),
        ("choices = 3", "mine.toml: choices = 3: must be a table"),
        ("choices.a = 3", "choices.a: must be tables, [choices.a.NAME], of settings"),
        ("choices.a = {}", "choices.a: must be tables"),
        ("choices.a.b = 3", "choices.a: must be tables"),
        ("axes = 3", "mine.toml: axes = 3: must be a table"),
        ("axes.num-rounds = [1, 1]", "axes.num-rounds = [1, 1]: names a value twice"),
        ("axes.seed = [1, 2]", "axes.seed: each run has one of the study's seeds; set seeds"),
        ("choices.seed.a.num-rounds = 1", "choices.seed: each run has one of the study's seeds"),
        ("settings.seed = 1", "settings.seed: each run has one"),
        ('settings.run-dir = "x"', "settings.run-dir: each run has a folder of its own below --out"),
        ("settings.num-round = 1", "settings: unknown setting 'num-round'; did you mean 'num-rounds'?"),
        ('choices."num-rounds".a.num-clients = 1\naxes.num-rounds = [1]', "num-rounds: is in choices and in axes"),
        ("skip = 3", "skip = 3: must be a list of tables"),
        ("skip = {}", "skip = {}: must be a list of tables"),
        ("skip = [3]", "skip: 3: must be a table of axis = value"),
        ("description = 3", "description = 3: must be text in quotes"),
        ("x = " + "[" * 100_000, "not valid TOML: nested too deeply"),
    ],
)
def test_odd_toml_is_one_line_with_its_place(written, text, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load_study(written(f'preset = "quickstart"\n{text}\n'))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants = 3", "mine.toml: variants = 3: must be a table, [variants]"),
        ("[variants]\na = 3", "variants.a = 3: must be a table, [variants.a], of settings"),
        ("[[variants]]\na = 3", "must be a table, [variants]"),
        ("[alternatives]\na = []", "alternatives.a = []: must be a table"),
        ("description = ['x']", "description = ['x']: must be text in quotes"),
        ("variants.a = {}\nalternatives.a = {}", "a: is a variant and an alternative"),
    ],
)
def test_so_it_is_of_presets(written, text, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load_preset(written(f"{text}\n"))
    assert "\n" not in str(caught.value)


def test_a_mark_at_the_beginning_of_a_file_is_no_mistake(written):
    assert load_preset(written("\ufeffnum-rounds = 3\n")).settings == {"num-rounds": 3}


def test_cells_that_are_the_same_run_are_refused(written, tmp_path):
    twice = GOOD.replace('strategy.name = "calfat"\nattack.random-start = "gaussian"', 'strategy.name = "fedavg"')
    with pytest.raises(ConfigError, match="are the same run"):
        plan_sweep(load_study(written(twice)), tmp_path / "out", {})


def test_a_value_out_of_range_is_refused_before_anything_runs(written, tmp_path):
    study = load_study(written(GOOD.replace("[0, 0.2]", "[0, 0.5]")))
    with pytest.raises(ConfigError, match=r"pool\.fraction = 0\.5"):
        plan_sweep(study, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_the_most_expensive_first(written, tmp_path):
    settings = 'preset = "quickstart"\n[settings]\nlocal.epochs = 1\n[axes]\nattack.steps = [1, 10, 3]\n'
    runs = plan_sweep(load_study(written(settings)), tmp_path, {})
    assert [run.cfg.attack.steps for run in runs] == [10, 3, 1]
    assert runs[0].cost / runs[2].cost == pytest.approx(23 / 5)


def test_the_flops_of_small_cnn_on_digits():
    convolutions = 2 * 8 * 8 * 9 * 32 + 2 * 4 * 4 * 9 * 32 * 64
    assert training_flops(RunConfig()) == 23 * (convolutions + 2 * 64 * 2 * 2 * 10)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local__epochs": 2},
        {"local__steps": 3},
        {"pool__fraction": 0.2},
        {"pool__fraction": 0.2, "pool__mode": "replace", "partition__scheme": "iid"},
        {"data__train_images": 0, "data__classes": "1,7,8", "partition__held_out": 0.3},
        {"kind": "central"},
    ],
)
def test_the_images_of_a_plan_are_those_that_are_trained_on(quick, federate, changes):
    cfg = quick(attack__epsilon="0.1", attack__steps=1, **changes)
    if cfg.kind == "central":
        Central(cfg).run()
        folder = RunFolder(cfg.run_dir)
    else:
        folder = federate(cfg)
    assert training_images(cfg) == sum(row["images"] for row in folder.read("rounds.jsonl"))


@pytest.fixture
def runs(written, tmp_path):
    return plan_sweep(load_study(written(GOOD)), tmp_path / "out", {})


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], 16),
        (["pool.mode=add"], 8),
        (["mode=add"], 8),
        (["pool.mode=replace", "mode=control"], 8),
        (["pool.mode=replace,pool.mode=control"], 8),
        (["mode=replace, control"], 8),
        (["mode=add", "mode=replace", "method=calfat"], 6),
        (["mode=add,method=calfat", "seed=7"], 2),
        (["method=calfat,mode=replace,fraction=0.2,seed=0"], 1),
        (["fraction=0.20"], 12),
        (["fraction=0", "fraction=0.2", "seed=0"], 8),
    ],
)
def test_only_takes_all_that_is_named_on_an_axis_and_what_axes_share(runs, only, expected):
    assert len(select(runs, only)) == expected


def test_only_takes_the_runs_that_are_named(runs):
    chosen = select(runs, ["mode=add", "mode=replace,seed=7", "fraction=0.2"])
    assert {run.point["pool.mode"] for run in chosen} == {"add", "replace"}
    assert {run.point["pool.fraction"] for run in chosen} == {"0.2"}
    assert {run.point["seed"] for run in chosen} == {"7"}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("mod=add", "unknown axis 'mod'; did you mean 'mode'?"),
        ("add", "--only add: must be AXIS=VALUE; axes: method, mode, fraction, seed"),
        ("mode=ad", "unknown value of mode 'ad'; did you mean 'add'? known: "),
        ("mode=add,replac", "unknown value of mode 'replac'; did you mean 'replace'?"),
        ("mode=", "unknown value of mode ''; known: add, "),
        ("mode=replace,fraction=0", "--only mode=replace,fraction=0: no run of the study has these values together"),
    ],
)
def test_only_names_what_there_is_not(runs, only, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        select(runs, [only])


def test_a_value_is_named_as_the_label_shows_it(written, tmp_path):
    study = """
preset = "quickstart"
choices.skew."Dir(0.5), 2 %".partition.concentration = 0.5
choices.skew."Dir(1)".partition.concentration = 1
"""
    runs = plan_sweep(load_study(written(study)), tmp_path, {})
    for only in ("skew=Dir(0.5), 2 %", "skew=Dir0.5,2", "skew=Dir0.5,2,seed=0"):
        assert [run.cfg.partition.concentration for run in select(runs, [only])] == [0.5]
    assert len(select(runs, ["skew=Dir0.5,2", "skew=Dir1"])) == 2
    clash = study.replace('"Dir(1)"', '"Dir(0.5),2"')
    with pytest.raises(ConfigError, match=r"two runs would lie in skew=Dir0\.5,2,seed=0"):
        plan_sweep(load_study(written(clash)), tmp_path, {})


@pytest.mark.parametrize("name", study_names())
def test_every_study_of_the_package_is_sound(name):
    study = load_study(name)
    assert study.description
    configs = [RunConfig.from_flat(settings) for _, settings in study.cells()]
    assert len(configs) == len(set(configs)) > 1
    for cfg in {cfg.replace(seed=0) for cfg in configs}:
        check_settings(cfg)


def test_descriptions_count_their_runs():
    for name in study_names():
        study = load_study(name)
        assert f"{len(list(study.cells()))} runs" in study.description, name
