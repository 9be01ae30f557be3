import itertools
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiebreak.config import (
    ConfigError,
    compose_run,
    compose_studies,
    compose_study,
    config_folder,
    list_studies,
    to_yaml,
)
from tiebreak.design.axes import Arch, DesignError, Device, PoolJacobian, Precision
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Zones


def cpu():
    return Device.CPU


def cuda():
    return Device.CUDA


def run(*overrides, device=cpu):
    return compose_run(overrides, device=device)


def refused(*overrides):
    with pytest.raises(DesignError) as caught:
        run(*overrides)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ one trial


def test_the_command_of_the_readme_is_the_cell_that_it_says():
    made = run(
        "arch=vgg11",
        "data=cifar10",
        "precision=fp16",
        "pool.beta=100",
        "optimizer=sgd",
        "batch_norm=true",
        "replicate=3",
        "results=elsewhere",
    )
    assert made.trial.cell == Cell(
        network=Network(arch="vgg11", batch_norm=True),
        data=Data(name="cifar10", augment=True),
        precision="fp16",
        jacobians=(PoolJacobian(beta=100),),
        measure=Train(optimizer=Optimizer(momentum=0.9, weight_decay=5e-4, schedule="cosine")),
    )
    assert made.trial.replicate == 3
    assert made.results == Path("elsewhere")
    assert made.data_root == Path("data")


@pytest.mark.parametrize("data", ["image_folder", "imagenet"])
def test_the_images_of_a_folder_are_part_of_the_cell(tmp_path, data):
    def compose():
        overrides = [f"data={data}", f"data_root={tmp_path}"]
        return run(*overrides, *(["data.folder=photos"] if data == "image_folder" else [])).trial.cell

    assert compose().data.content == ""  # composed before the images are there
    place = tmp_path / ("photos" if data == "image_folder" else data) / "train" / "cat"
    place.mkdir(parents=True)
    (place / "1.png").write_bytes(b"123")
    first = compose()
    assert len(first.data.content) == 12
    assert compose() == first
    (place / "1.png").write_bytes(b"1234")
    assert compose().id != first.id


def test_the_content_can_be_named_and_is_nothing_for_the_other_data():
    named = run("data=imagenet", "data.content=0123456789ab", "data_root=nowhere").trial.cell
    assert named.data.content == "0123456789ab"
    assert run("data.content=auto").trial.cell.data.content == ""
    assert "data.content" in refused("data=mnist", "data.content=0123456789ab")


def test_certified_labels_are_a_setting_of_zones():
    assert run("protocol=zones", "certify=true").trial.cell.measure.certify is True
    assert "certify belongs to protocol=zones" in refused("protocol=train", "certify=true")


def test_a_paired_protocol_takes_its_jacobians_from_the_lists():
    cell = run(
        "protocol=zones", "pool.betas=[0,1.5]", "pool.selections=[last,random]", "pool.seed=7"
    ).trial.cell
    assert cell.measure == Zones(num_batches=8)
    assert cell.jacobians == (
        PoolJacobian(),
        PoolJacobian(beta=1.5),
        PoolJacobian(selection="last"),
        PoolJacobian(selection="random", seed=7),
    )
    blended = run("protocol=zones", "pool=blended").trial.cell
    assert {jacobian.forward for jacobian in blended.jacobians} == {"blended"}


def test_auto_is_resolved_before_the_cell_exists():
    assert run(device=cuda).trial.cell == run("device=cuda").trial.cell
    assert run(device=cpu).trial.cell == run("device=cpu").trial.cell
    assert run().trial.cell.id != run(device=cuda).trial.cell.id

    def never():
        raise AssertionError("the device was asked for although it is stated")

    compose_run(["device=cpu"], device=never)


@pytest.mark.parametrize("precision", ["fp16", "fp16_rounded", "bf16", "fp32", "fp64", "amp16", "ampbf16"])
def test_what_auto_means_for_the_optimizer(precision):
    optimizer = run("optimizer=adam", f"precision={precision}").trial.cell.measure.optimizer
    assert optimizer.eps == (1e-4 if precision in ("fp16", "fp16_rounded") else 1e-8)
    assert optimizer.loss_scale == ("dynamic" if precision == "amp16" else "none")


def test_order_and_spelling_of_overrides_move_nothing():
    overrides = ["arch=vgg11", "optimizer.lr=1", "pool.beta=0.0", "batch_norm=true"]
    ids = {run(*order).trial.id for order in itertools.islice(itertools.permutations(overrides), 0, 24, 8)}
    ids.add(run("arch='vgg11'", "optimizer.lr=1.0", "pool.beta=-0.0", "batch_norm=True").trial.id)
    assert len(ids) == 1


def test_places_and_replicate_are_no_part_of_the_cell():
    assert run("results=a", "data_root=b", "replicate=4").trial.cell == run().trial.cell


def test_the_printed_configuration_is_the_one_that_is_composed():
    tree = yaml.safe_load(to_yaml(["arch=vgg11", "pool.beta=7"]))
    assert tree["arch"]["name"] == "vgg11"
    assert tree["pool"]["beta"] == 7
    assert set(tree) >= {"precision", "optimizer", "protocol", "results"}


BAD = {
    "arch=vgg12": ["arch must be one of", "resnet50", "got 'vgg12'", "Did you mean vgg"],
    "data=mnsit": ["data must be one of", "got 'mnsit'", "Did you mean mnist?"],
    "optimizr=sgd": ["no key optimizr", "Did you mean optimizer?", "--cfg"],
    "optimizer.lrr=1": ["no key optimizer.lrr", "Did you mean optimizer.lr?"],
    "protocol.certify=true": ["no key protocol.certify", "Did you mean certify?"],
    "foo/bar=1": ["no key foo/bar"],
    "+colour=blue": ["unknown key colour", "Keys: arch"],
    "+pool.colour=blue": ["group pool", "unknown key colour", "betas"],
    "+arch.colour=blue": ["group arch", "unknown key colour"],
    "+arch.batch_norm=true": ["group arch", "unknown key batch_norm"],
    "+precision.bits=8": ["group precision", "unknown key bits"],
    "+protocol.colour=blue": ["group protocol", "unknown key colour", "num_epochs"],
    "+protocol.optimizer={lr: 3}": ["group protocol", "unknown key optimizer"],
    "+optimizer.beta1=0.9": ["group optimizer", "unknown key beta1"],
    "~pool": ["no pool"],
    "~pool.beta": ["group pool has no beta"],
    "~arch": ["no arch"],
    "~data.name": ["group data has no name"],
    "~data.dither": ["group data has no dither"],
    "~optimizer.eps": ["group optimizer has no eps"],
    "~protocol.name": ["group protocol has no name"],
    "~protocol.num_epochs": ["group protocol has no num_epochs"],
    "~replicate": ["no replicate"],
    "~results": ["no results"],
    "pool=null": ["pool=null cannot be composed"],
    "arch=[1]": ["arch=[1] cannot be composed"],
    "arch={a: 1}": ["arch={a: 1} cannot be composed"],
    "pool.beta=nan": ["pool.beta must be a finite number, got nan", "Use 0 for"],
    "pool.beta=inf": ["pool.beta", "got inf"],
    "pool.beta=text": ["pool.beta", "got 'text'"],
    "pool.beta=1e400": ["pool.beta", "got inf"],
    "pool.beta=null": ["pool.beta", "got None"],
    "pool.beta=[1]": ["pool.beta", "got [1]"],
    "pool.beta=1,2": ["pool.beta=1,2 cannot be composed", "--multirun"],
    "pool.beta=[": ["pool.beta=[ cannot be composed"],
    "pool.forward=exactly": [
        "pool.forward must be one of exact, blended, blended_value, blended_gradient, got 'exactly'"
    ],
    "pool.seed=4": ["pool.seed", "seed=4"],
    f"pool.beta=1{'0' * 400}": ["pool.beta", "1329 bits"],
    f"optimizer.lr=1{'0' * 400}": ["optimizer.lr", "finite", "1329 bits"],
    f"replicate={'9' * 5000}": ["replicate=999", "cannot be composed"],
    f"replicate={2**63}": ["replicate", "below 2**63", str(2**63)],
    "optimizer.lr=-1": ["optimizer.lr must be above 0, got -1.0"],
    "optimizer.lr=0": ["optimizer.lr must be above 0, got 0.0"],
    "optimizer.lr=${nope}": ["optimizer.lr cannot be resolved", "'nope'"],
    "optimizer.lr=${": ["optimizer.lr=${ cannot be composed"],
    "optimizer.name=adamw": ["optimizer.name must be one of sgd, adam, got 'adamw'"],
    "data.batch_size=0": ["data.batch_size", "1 or more, got 0"],
    "data.batch_size=1.5": ["data.batch_size", "whole number", "got 1.5"],
    "data.augment=maybe": ["data.augment must be true or false, got 'maybe'"],
    "data=image_folder": ["data.folder has no value", "data.folder=..."],
    "data.folder=x": ["data.folder", "got 'x' with mnist"],
    "precision=tf32": ["precision=tf32", "device=cpu", "device=cuda"],
    "precision=fp24": ["precision must be one of", "got 'fp24'", "Did you mean fp"],
    "precision.name=[1]": ["precision must be one of fp16", "got [1]"],
    "protocol.name=trian": ["protocol must be one of noise, zones", "got 'trian'"],
    "protocol.name=[1]": ["protocol must be one of noise, zones", "got [1]"],
    "protocol=lr_search": ["data.held_out=0"],
    "device=gpu": ["device must be one of auto, cpu, cuda, got 'gpu'"],
    "device=[1]": ["device must be one of auto, cpu, cuda, got [1]"],
    "num_threads=0": ["num_threads", "1 or more, got 0"],
    "init=zero": ["init must be one of pytorch", "got 'zero'"],
    "replicate=-1": ["replicate", "0 or more, got -1"],
    "replicate=one": ["replicate", "got 'one'"],
    "results=null": ["results must be the path of a folder, got None", "results=FOLDER"],
    "results=''": ["results must be the path of a folder, got ''"],
    "data_root=[a]": ["data_root must be the path of a folder, got ['a']"],
    "hydra/launcher=nope": ["hydra/launcher=nope cannot be composed"],
    "": ["cannot be composed"],
    "=": ["cannot be composed"],
    "--arch=vgg11": ["--arch=vgg11 cannot be composed"],
    "arch=vgg11 data=cifar10": ["arch=vgg11 data=cifar10 cannot be composed"],
    "a\0b=1": ["cannot be composed"],
}


@pytest.mark.parametrize("override", BAD, ids=lambda override: ascii(override[:30]))
def test_a_mistake_is_a_sentence_that_names_the_key_and_what_was_got(override):
    sentence = refused(override)
    for word in BAD[override]:
        assert word in sentence
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    assert len(sentence) < 1000


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["protocol=zones", "pool.beta=100"], ["pool.beta", "got 100", "pool.betas"]),
        (["protocol=zones", "pool.selection=last"], ["pool.selection", "got 'last'", "pool.selections"]),
        (["protocol=zones", "pool.betas=[0]"], ["two or more, got 1"]),
        (["protocol=zones", "pool.betas=3"], ["pool.betas must be a list", "got 3"]),
        (["protocol=zones", "pool.betas=[0,nan]"], ["pool.beta", "got nan"]),
        (["protocol=drift", "pool.selections=[frist]"], ["pool.selection must be one of", "'frist'"]),
        (["pool=blended", "pool.selection=last"], ["pool.forward=blended", "selection=last"]),
        (["precision=fp16", "optimizer.loss_scale=dynamic"], ["optimizer.loss_scale=dynamic", "fp16"]),
        (["precision=fp16", "optimizer=adam", "optimizer.eps=1e-8"], ["optimizer.eps=1e-08 is 0 in fp16"]),
        (["optimizer=adam", "optimizer.momentum=0.9"], ["optimizer.momentum", "0.9 with adam"]),
        (["arch=resnet18", "arch.stem_pool=4x4"], ["arch.stem_pool must be one of 2x2, 3x3, got '4x4'"]),
        (["precision=tf32", "device=cpu"], ["precision=tf32"]),
        (["data=svhn", "data.train_split=test"], ["data.train_split of svhn", "train, extra", "got 'test'"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] else "",
)
def test_mistakes_of_combination(overrides, words):
    sentence = refused(*overrides)
    for word in words:
        assert word in sentence


def known_keys():
    def walk(tree, prefix):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return sorted(walk(yaml.safe_load(to_yaml([])), ""))


KEYS = st.sampled_from(known_keys()) | st.text(max_size=6)
VALUES = st.one_of(
    st.sampled_from(
        [
            "null",
            "nan",
            "inf",
            "-inf",
            "true",
            "0",
            "-1",
            "1e400",
            "[]",
            "{}",
            "[[1]]",
            "{a:1}",
            "???",
            "''",
            "'",
            '"',
            "[",
            "}",
            "${arch}",
            "${.}",
            "${oc.env:NO_SUCH}",
            "a,b",
            "choice(1,2)",
            "range(3)",
            "int(x)",
            "\\",
            "\\'",
            "@",
            "2x2",
            "last",
            "random",
            "auto",
            "fp16",
            "zones",
            "drift",
            "adam",
            "image_folder",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)
OVERRIDES = st.one_of(
    st.tuples(st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES).map(
        lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
    ),
    st.text(max_size=12),
)


@given(st.lists(OVERRIDES, min_size=1, max_size=3))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_typed_a_trial_or_a_design_error_comes_out(overrides):
    try:
        made = compose_run(overrides, device=cpu)
    except DesignError:
        return
    assert Cell.from_dict(made.trial.cell.to_dict()) == made.trial.cell


# ------------------------------------------------------------------------------------------------ studies


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a study's YAML into a copy of the configurations and composes it."""
    folder = tmp_path / "configs"
    shutil.copytree(config_folder(), folder)
    monkeypatch.setattr("tiebreak.config.composition.config_folder", lambda: folder)

    def compose(text, *overrides, name="own"):
        path = folder / "study" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text, "utf-8")
        return compose_study(name, overrides, device=cpu)

    return compose


OWN = """
question: Does it matter?
parts:
  - name: accuracy
    replicates: 2
    overrides: [protocol=train, data=mnist5k, protocol.num_epochs=1]
    sweep:
      pool: [exact, blended]
      pool.beta: [0, 1, 1.5]
      batch_norm: [false, true]
  - name: zones
    replicates: 3
    overrides: [protocol=zones, data=mnist5k]
    sweep:
      pool.betas: [[0, 1], [0, 10, 100]]
"""


def test_a_sweep_is_a_grid_in_the_order_of_its_keys(study):
    made = study(OWN).study
    accuracy, zones = made.parts
    assert made.name == "own"
    assert made.question == "Does it matter?"
    assert [part.num_replicates for part in made.parts] == [2, 3]
    grid = itertools.product(["exact", "blended"], [0.0, 1.0, 1.5], [False, True])
    seen = [(cell.reference.forward, cell.reference.beta, cell.network.batch_norm) for cell in accuracy.cells]
    assert seen == list(grid)
    assert [len(cell.jacobians) for cell in zones.cells] == [2, 3]
    assert len(made.trials) == 12 * 2 + 2 * 3


def test_points_are_settings_that_go_together_and_are_crossed_with_the_grid(study):
    text = part(
        points=[
            {"precision": "fp32", "optimizer.lr": 0.04},
            {"precision": "bf16", "optimizer.lr": 0.02},
        ],
        sweep={"pool.beta": [0, 1]},
    )
    cells = study(text).study.parts[0].cells
    assert [(cell.precision, cell.measure.optimizer.lr, cell.reference.beta) for cell in cells] == [
        ("fp32", 0.04, 0.0),
        ("fp32", 0.04, 1.0),
        ("bf16", 0.02, 0.0),
        ("bf16", 0.02, 1.0),
    ]


def test_the_users_overrides_win_and_places_are_read(study):
    made = study(OWN, "batch_norm=true", "results=out", "data_root=elsewhere")
    cells = [cell for part in made.study.parts for cell in part.cells]
    assert all(cell.network.batch_norm for cell in cells)
    assert len(made.study.parts[0].cells) == 6  # points that became equal are one cell
    assert made.results == Path("out")
    assert made.data_root == Path("elsewhere")


def test_an_override_that_only_the_cells_know_is_taken(study):
    """`protocol.num_batches` is a key of zones, not of the default protocol."""
    text = (
        "question: q\nparts:\n  - {name: zones, replicates: 1, overrides: [protocol=zones, data=mnist5k]}\n"
    )
    made = study(text, "protocol.num_batches=3")
    assert made.study.parts[0].cells[0].measure.num_batches == 3


def test_text_in_a_sweep_stays_text(study):
    folders = [
        "plain",
        "with space",
        "a,b",
        "it's",
        'say "x"',
        "back\\slash",
        "end\\",
        "true",
        "12",
        "[x]",
        "ü",
    ]
    text = yaml.safe_dump(
        {
            "question": "Which folder?",
            "parts": [
                {
                    "name": "folders",
                    "replicates": 1,
                    "overrides": ["data=image_folder", "data.image_size=32"],
                    "sweep": {"data.folder": folders},
                }
            ],
        }
    )
    assert [cell.data.folder for cell in study(text).study.parts[0].cells] == folders


def part(**fields):
    known = {"name": "only", "replicates": 1, "overrides": ["data=mnist5k"]} | fields
    kept = {key: value for key, value in known.items() if value is not ...}
    return yaml.safe_dump({"question": "Why?", "parts": [kept]})


MALFORMED = {
    "no YAML": ("question: [", ["cannot be read", "Mend the YAML"]),
    "tabs": ("question: x\n\tparts: []\n", ["cannot be read"]),
    "not text": (b"\xff\xfe\xff", ["cannot be read"]),
    "a loop": ("question: q\nparts: &a\n  - *a\n", ["own.yaml"]),
    "a duplicate key": ("question: a\nquestion: b\nparts: []\n", ["cannot be read", "question"]),
    "empty": ("", ["question must be a sentence, got None"]),
    "a list": ("- a\n- b\n", ["must be a mapping"]),
    "a scalar": ("42\n", ["cannot be read"]),
    "unknown key": ("question: q\nprats: []\n", ["unknown key prats", "Keys: hypothesis, parts, question"]),
    "no question": ("parts: [{name: a, replicates: 1}]\n", ["question must be a sentence, got None"]),
    "question a list": ("question: [q]\nparts: [{name: a}]\n", ["question must be a sentence, got ['q']"]),
    "hypothesis a list": (
        "question: q\nhypothesis: [h]\nparts: [{name: a}]\n",
        ["hypothesis must be text, got ['h']"],
    ),
    "no parts": ("question: q\n", ["parts must be a list of parts, got None"]),
    "empty parts": ("question: q\nparts: []\n", ["parts must be a list of parts, got []"]),
    "parts a number": ("question: q\nparts: 3\n", ["parts must be a list of parts, got 3"]),
    "a part a number": ("question: q\nparts: [3]\n", ["part must be a mapping", "got 3"]),
    "unknown key of a part": (part(sweeep={}), ["part only", "unknown key sweeep", "sweep"]),
    "no name": (part(name=...), ["part ?", "has no name"]),
    "no replicates": (part(replicates=...), ["part only", "has no replicates"]),
    "replicates 0": (part(replicates=0), ["part only", "replicates", "1 or more", "got 0"]),
    "replicates text": (part(replicates="three"), ["part only", "replicates", "got 'three'"]),
    "name a number": (part(name=3), ["name of a part must be text, got 3"]),
    "overrides text": (part(overrides="data=mnist5k"), ["overrides must be a list", "got 'data=mnist5k'"]),
    "an override a mapping": (part(overrides=[{"data": "x"}]), ["overrides must be a list", "{'data': 'x'}"]),
    "sweep a list": (part(sweep=["precision"]), ["sweep must be a mapping", "got ['precision']"]),
    "sweep empty": (part(sweep={"precision": []}), ["sweep.precision must be a list of values, got []"]),
    "sweep a value": (part(sweep={"precision": "fp16"}), ["sweep.precision must be a list", "got 'fp16'"]),
    "sweep of no key": (
        part(sweep={"optimizer.lrr": [1]}),
        ["part only", "no key optimizer.lrr", "optimizer.lr"],
    ),
    "sweep below a value": (part(sweep={"pool.beta.x": [1]}), ["part only", "pool.beta.x"]),
    "sweep of a bad value": (part(sweep={"pool.beta": [0, ".nan"]}), ["part only", "pool.beta", "'.nan'"]),
    "sweep of nan": (
        "question: q\nparts: [{name: only, replicates: 1, sweep: {pool.beta: [.nan]}}]\n",
        ["part only", "pool.beta", "got nan"],
    ),
    "sweep of a mapping": (part(sweep={"pool.beta": [{"a": 1}]}), ["part only", "pool.beta", "{'a': 1}"]),
    "sweep in a sweep": (part(overrides=["pool.beta=1,2"]), ["part only", "pool.beta=1,2"]),
    "points a mapping": (part(points={"pool.beta": 1}), ["part only", "points must be a list of mappings"]),
    "points of values": (part(points=[3]), ["part only", "points must be a list of mappings", "got [3]"]),
    "points of several kinds": (
        part(points=[{"pool.beta": 1}, {"batch_norm": True}]),
        ["part only", "points must all set the same keys", "batch_norm"],
    ),
    "a key in points and sweep": (
        part(points=[{"pool.beta": 1}], sweep={"pool.beta": [0]}),
        ["part only", "pool.beta stands in points and in sweep"],
    ),
    "replicate in the points": (part(points=[{"replicate": 1}]), ["part only", "replicates"]),
    "results in the points": (part(points=[{"results": "x"}]), ["part only", "results", "command line"]),
    "unknown option": (
        part(sweep={"arch": ["vgg11", "vgg12"]}),
        ["part only", "arch must be one of", "'vgg12'"],
    ),
    "a number for an option": (part(sweep={"arch": [11]}), ["part only", "arch"]),
    "nothing for an option": (part(sweep={"arch": [None]}), ["part only", "arch"]),
    "replicate in the overrides": (part(overrides=["replicate=3"]), ["part only", "replicate", "replicates"]),
    "replicate in the sweep": (part(sweep={"replicate": [1, 2]}), ["part only", "replicates"]),
    "results in a part": (part(overrides=["results=x"]), ["part only", "results", "command line"]),
    "interpolation": (part(overrides=["optimizer.lr=${nope}"]), ["part only", "optimizer.lr"]),
    "two of one name": (
        "question: q\nparts: [{name: a, replicates: 1}, {name: a, replicates: 2}]\n",
        ["two parts named a"],
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_study_is_a_sentence_that_names_file_and_part(study, case):
    text, words = MALFORMED[case]
    with pytest.raises(ConfigError) as caught:
        study(text)
    sentence = str(caught.value)
    assert sentence.startswith("configs/study/own.yaml")
    for word in words:
        assert word in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("replicate=3", ["replicate"]),
        ("+replicate=3", ["replicate"]),
        ("pool.bta=1", ["no key pool.bta", "Did you mean pool.beta?"]),
        ("results=null", ["results must be the path"]),
        ("pool.beta=1,2", ["pool.beta=1,2"]),
    ],
)
def test_a_mistake_in_the_users_overrides_of_a_study(study, override, words):
    with pytest.raises(DesignError) as caught:
        study(part(), override)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["dmeo", "", "../config", "/etc/passwd", "demo.yaml", "a\0b", "demo/", "."])
def test_a_study_that_is_not_there_is_answered_with_those_that_are(name):
    with pytest.raises(ConfigError) as caught:
        compose_study(name, device=cpu)
    assert "there is no study" in str(caught.value)
    assert "demo" in str(caught.value)


def test_a_typo_in_a_studys_name_is_guessed():
    with pytest.raises(ConfigError, match=r"no study dmeo\. Did you mean demo\?"):
        compose_study("dmeo", device=cpu)


def test_studies_in_folders_are_listed_by_path(study):
    study(part(), name="paper/own")
    assert "paper/own" in list_studies()
    assert list(list_studies()) == sorted(list_studies())


def test_hydra_is_left_as_it_was_found():
    from hydra.core.global_hydra import GlobalHydra

    run()
    refused("arch=nope")
    with pytest.raises(ConfigError):
        compose_study("nope", device=cpu)
    assert not GlobalHydra.instance().is_initialized()


def test_configurations_cover_the_axes():
    def options(group):
        return {path.stem for path in (config_folder() / group).glob("*.yaml")}

    assert options("arch") == set(Arch)
    assert options("precision") == set(Precision)


def test_studies_that_share_a_composer_are_what_each_is_alone():
    names = ("paper/zero_program", "paper/normpool", "paper/zones_by_depth")
    together = compose_studies(names, device=cpu)
    assert [run.study for run in together] == [compose_study(name, device=cpu).study for name in names]
