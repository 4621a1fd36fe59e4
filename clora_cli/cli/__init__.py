"""The command line (layer L4): parse, one engine call, print."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import typer
from typer.exceptions import TyperException

from clora_cli import __version__
from clora_cli.cli._output import tell
from clora_cli.cli.eval import evaluate_command
from clora_cli.cli.expand import expand
from clora_cli.cli.merge import merge
from clora_cli.cli.report import report
from clora_cli.cli.route import route
from clora_cli.cli.run import run
from clora_cli.cli.show import show
from clora_cli.cli.stat_features import stat_features
from clora_cli.cli.tasks import tasks
from clora_cli.cli.train_task import train_task
from clora_cli.cli.trim import trim
from clora_cli.errors import CloraError, OptionError
from clora_cli.legible import legible, shortened
from clora_cli.processes import is_main_process

__all__ = ["app", "main"]

_LONGEST = 2000  # letters of a message: a name in it may be of any length
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # PyTorch's, on accelerators and on processors

app = typer.Typer(
    name="clora",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich costs a third of the start-up time of --help, and plain text reads well everywhere
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CLORA"},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong option, 3 missing or damaged artifact or data, "
    "4 artifacts that do not fit together, 5 a gate was not met, 130 interrupted.",
)
app.command("train-task")(train_task)
app.command("stat-features")(stat_features)
app.command("trim")(trim)
app.command("merge")(merge)
app.command("route")(route)
app.command("expand")(expand)
app.command("eval")(evaluate_command)
app.command("run")(run)
app.command("report")(report)
app.command("show")(show)
app.command("tasks")(tasks)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clora {__version__}")
        raise typer.Exit


@app.callback()
def _clora(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_print_version, is_eager=True),
) -> None:
    """Teach one language model task after task with LoRA, without forgetting.

    Each command reads and writes adapter folders on disk, which PEFT loads as they are.
    """


def main() -> None:
    """Run the command line; the only place that turns an error into a message and an exit code."""
    _quieten_libraries()
    _replace_closed_streams()
    try:
        _check_words(sys.argv[1:])
        sys.exit(app(standalone_mode=False))
    except CloraError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except TyperException as error:
        _complain_of_usage(error)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        _complain("out of memory; give less at once: a smaller --batch-size, --max-length or --rank")
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        _give_stdout_up()
        sys.exit(1)
    except (OSError, UnicodeError) as error:  # what no command has words for, such as a full disk under stdout
        _give_stdout_up()
        where = getattr(error, "filename", None) or "input or output"
        why = getattr(error, "strerror", None) or error
        _complain(f"{where}: {why}; check the name, its permissions and the disk")
        sys.exit(1)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise OptionError(f"{word!a} is not UTF-8; rename the file or folder") from None


def _replace_closed_streams() -> None:
    # A shell's `>&-` leaves no stream at all, and Python None in its place.
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open(encoding="utf-8")
    sys.stdout = sys.stdout or nothing.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nothing.open("w", encoding="utf-8")


def _give_stdout_up() -> None:
    # Python would complain once more when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    if is_main_process():
        tell(f"error: {shortened(legible(' '.join(message.split())), _LONGEST)}")


def _complain_of_usage(error: TyperException) -> None:
    message = str(error.format_message())
    if "\n" in message:  # the whole help: a command without arguments
        tell(message)
        return
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "clora"
    _complain(f"{message.rstrip('.')}; see {command} --help")


def _quieten_libraries() -> None:
    # Set before they are imported. Their bars and notices would mix with ours; errors still come through.
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
