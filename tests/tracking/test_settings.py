from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.config import compose_launch
from tiebreak.tracking.settings import Mode, Task, Tracking, TrackingError, mirror_environment

WANDB = {"tracking": "wandb", "mode": "online", "project": "p", "entity": None, "wandb_folder": "f"}
ORDER = [Mode.ONLINE, Mode.OFFLINE, Mode.DISABLED]


def test_by_default_there_is_no_mirror_whatever_the_environment_says():
    environment = {"WANDB_MODE": "online", "WANDB_API_KEY": "k", "WANDB_PROJECT": "p"}
    assert not Tracking.of(compose_launch([]), environment=environment).is_on


def test_the_keys_of_the_command_line():
    tree = compose_launch(
        ["tracking=wandb", "mode=offline", "project=maxpool", "entity=team", "wandb_folder=w"]
    )
    assert Tracking.of(tree, environment={}) == Tracking(
        mode=Mode.OFFLINE, project="maxpool", entity="team", folder=Path("w")
    )
    tree = compose_launch(["tracking=wandb"])
    assert Tracking.of(tree, environment={}) == Tracking(mode=Mode.ONLINE)


@pytest.mark.parametrize("said", ORDER)
@pytest.mark.parametrize("stated", ["online", "OFFLINE", "dryrun", "disabled", "", "run"])
def test_the_environment_only_makes_it_more_reserved(said, stated):
    mode = Tracking.of({**WANDB, "mode": str(said)}, environment={"WANDB_MODE": stated}).mode
    assert ORDER.index(mode) >= ORDER.index(said)
    meant = {"online": 0, "run": 0, "": 0, "OFFLINE": 1, "dryrun": 1, "disabled": 2}[stated]
    assert ORDER.index(mode) == max(meant, ORDER.index(said))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mode": "sometimes"}, "mode must be one of online, offline, disabled, got 'sometimes'"),
        ({"mode": None}, "mode must be one of"),
        ({"project": ""}, "project must be text"),
        ({"project": 3}, "project must be text, got 3"),
        ({"project": "a/b"}, "project must be a name without /"),
        ({"entity": 7}, "entity must be a user or team"),
        ({"wandb_folder": None}, "wandb_folder must be text"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(changes, sentence):
    with pytest.raises(TrackingError, match=sentence):
        Tracking.of({**WANDB, **changes}, environment={})


def test_a_variable_that_cannot_be_is_a_sentence():
    with pytest.raises(TrackingError, match="WANDB_MODE must be online, offline or disabled, got 'maybe'"):
        Tracking.of(WANDB, environment={"WANDB_MODE": "maybe"})


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda text: not text.startswith("-")
)


@given(mode=st.sampled_from(Mode), project=words, entity=st.just("") | words, study=st.just("") | words)
def test_a_task_survives_its_command_line(mode, project, entity, study):
    tracking = Tracking(mode=mode, project=project, entity=entity, folder=Path("a b/ü"))
    task = Task(tracking=tracking, study=study, results=Path("/r"))
    assert Task.from_arguments(task.to_arguments()) == task


def test_the_mirror_sees_of_wandb_only_the_account(tmp_path):
    given = {
        "PATH": "/bin",
        "WANDB_API_KEY": "key",
        "WANDB_BASE_URL": "https://here",
        "WANDB_RUN_ID": "other",
        "WANDB_SWEEP_ID": "sweep",
        "WANDB_MODE": "online",
        "WANDB_NOTES": "private",
        "WANDB_ERROR_REPORTING": "true",
    }
    seen = mirror_environment(Tracking(folder=tmp_path), given)
    assert seen["PATH"] == "/bin"
    assert seen["WANDB_API_KEY"] == "key"
    assert seen["WANDB_BASE_URL"] == "https://here"
    assert seen["WANDB_ERROR_REPORTING"] == "false"
    assert not {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_MODE", "WANDB_NOTES"} & set(seen)
    assert all(str(tmp_path) in seen[key] for key in seen if key.endswith("_DIR"))
