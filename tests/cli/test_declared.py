"""One declaration is enough: an option that a class declares is there on every surface."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from clora_cli.base import registry
from clora_cli.base.files import differences
from clora_cli.base.options import option
from clora_cli.cli._declared import completion, takes_declared
from clora_cli.cli._options import ConfigOption
from clora_cli.options import TrainOptions, ways
from clora_cli.recipes import settings
from clora_cli.recipes.document import read_document
from clora_cli.training import make_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class More(TrainOptions):
    """The options of train-task and one that it has not had so far."""

    adam_beta2: float = option(
        0.999, "Decay of AdamW's second moment.", interval="(0, 1)", table="training", since="9.0"
    )


@pytest.fixture
def command():
    """Return a command of these options that prints the new one, run on words and with an environment."""
    app = typer.Typer(
        context_settings={"auto_envvar_prefix": "CLORA"}, pretty_exceptions_enable=False, rich_markup_mode=None
    )

    @app.callback()
    def _group():
        pass

    @app.command("train-task")
    @takes_declared
    def train_task(options: More, loud: Annotated[bool, typer.Option("--loud")] = False, config: ConfigOption = None):
        typer.echo(json.dumps([options.adam_beta2, options.data, loud]))

    def run(*words, **environment):
        result = CliRunner().invoke(app, ["train-task", "--data", "x", *map(str, words)], env=environment)
        return result.exception if result.exit_code else json.loads(result.stdout)

    run.help = lambda: " ".join(CliRunner().invoke(app, ["train-task", "--help"]).stdout.split())
    return run


def test_the_command_line_has_it(command):
    assert command() == [0.999, "x", False]
    assert command("--adam-beta2", 0.9, "--loud") == [0.9, "x", True]
    assert "--adam-beta2 0.0: give a number in (0, 1)" in str(command("--adam-beta2", 0.0))


def test_help_and_documentation_have_it(command):
    assert "--adam-beta2 <float>" in command.help()
    assert "Decay of AdamW's second moment. [env var: CLORA_TRAIN_TASK_ADAM_BETA2; default: 0.999]" in command.help()


def test_the_environment_and_a_configuration_file_set_it(command, tmp_path):
    assert command(CLORA_TRAIN_TASK_ADAM_BETA2="0.95")[0] == 0.95
    (tmp_path / "train.yaml").write_text("adam-beta2: 0.98\n")
    assert command("-c", tmp_path / "train.yaml")[0] == 0.98
    assert command("-c", tmp_path / "train.yaml", CLORA_TRAIN_TASK_ADAM_BETA2="0.95")[0] == 0.95


def test_recipes_have_it(monkeypatch):
    monkeypatch.setitem(settings._SECTIONS, "train", More)
    settings._known.cache_clear()
    try:
        item = read_document("{adam-beta2: [0.9, 0.95], rank: 4}", "recipe.yaml", "recipe")
        read = settings.read_settings(item, "train", tasks=2)
        assert settings.words_of(settings.at_stage(read, 2)) == ["--adam-beta2", "0.95", "--rank", "4"]
    finally:
        settings._known.cache_clear()


def test_manifests_keep_it_where_it_is_not_what_its_absence_means(model_folder, tasks, tmp_path):
    where = {"data": str(tasks["first"]), "model": str(model_folder("llama")), "package": tmp_path}
    before = make_plan(TrainOptions(**where)).recipe()
    assert make_plan(More(**where)).recipe() == before
    changed = make_plan(More(**where, adam_beta2=0.95)).recipe()
    assert differences(changed, before) == "training.adam_beta2"


def test_every_way_to_combine_and_to_route_is_completed():
    assert set(completion("combine")("")) == set(ways())
    assert {"auto", "learned", *registry.names("routers")} == set(completion("similarity")(""))
