"""The command line (layer L4): parse, one engine call, print."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer
from typer.exceptions import TyperException

from clora_cli import __version__
from clora_cli.base.errors import CloraError, OptionError, ReplacedError, blaming
from clora_cli.base.legible import legible, shortened
from clora_cli.base.versions import library_versions, versions
from clora_cli.cli._output import give_up, tell
from clora_cli.cli._waiting import filled
from clora_cli.cli.doctor import doctor
from clora_cli.cli.eval import evaluate_command
from clora_cli.cli.expand import expand
from clora_cli.cli.export import export
from clora_cli.cli.merge import merge
from clora_cli.cli.pull import pull
from clora_cli.cli.push import push
from clora_cli.cli.report import report
from clora_cli.cli.route import route
from clora_cli.cli.run import run
from clora_cli.cli.scan import scan
from clora_cli.cli.serve import serve
from clora_cli.cli.show import show
from clora_cli.cli.stat_features import stat_features
from clora_cli.cli.synthesize import synthesize
from clora_cli.cli.tasks import tasks
from clora_cli.cli.train_task import train_task
from clora_cli.cli.trim import trim
from clora_cli.processes import signals
from clora_cli.processes.meeting import agree, end_all, fallen_out, launched, leave
from clora_cli.processes.ranks import is_main_process

__all__ = ["app", "main"]

_TURNS = 20
_PAUSE = 0.2  # seconds
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
    "4 artifacts that do not fit together, 5 a limit was not met; 130, 143, 129 interrupted by SIGINT, SIGTERM, SIGHUP.",
)
app.command("train-task")(train_task)
app.command("stat-features")(stat_features)
app.command("trim")(trim)
app.command("merge")(merge)
app.command("route")(route)
app.command("expand")(expand)
app.command("export")(export)
app.command("eval")(evaluate_command)
app.command("serve")(serve)
app.command("synthesize")(synthesize)
app.command("run")(run)
app.command("report")(report)
app.command("push")(push)
app.command("pull")(pull)
app.command("scan")(scan)
app.command("show")(show)
app.command("tasks")(tasks)
app.command("doctor")(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        libraries = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        typer.echo(f"clora {__version__} ({libraries})")
        raise typer.Exit


# What several processes of a launch do together; the rest is the first one's to do.
_TOGETHER = {"train-task", "stat-features", "route", "eval"}


@app.callback()
def _clora(
    context: typer.Context,
    version: bool = typer.Option(
        False,
        "--version",
        help="Print the version.",
        callback=_print_version,
        is_eager=True,
        allow_from_autoenv=False,  # CLORA_VERSION is what a Dockerfile may well call something else
    ),
) -> None:
    """Teach one language model task after task with LoRA, without forgetting.

    Each command reads and writes adapter folders on disk, which PEFT loads as they are.
    """
    _check_here()
    if launched():
        # Before any work, which others would wait for; what cannot be reached is reported here too.
        agree(lambda: {"command": context.invoked_subcommand, "versions": versions()})
        if not is_main_process() and context.invoked_subcommand not in _TOGETHER:
            raise typer.Exit  # and wait for the first one, as at the end of every command


def main() -> None:
    """Run the command line; the only place that turns an error into a message and an exit code."""
    code: int | None = None
    try:
        with signals.interruptible():
            code = _outcome()
    except BaseException:  # a signal may turn into any error on its way up through libraries
        if not signals.received():
            raise
    sys.exit(signals.exit_code() if signals.received() and code != 0 else code)


def _outcome() -> int:
    """Carry the command out; report what went wrong, in one line for all processes, and return the exit status."""
    say: Callable[[str], None] = _complain
    try:
        _quieten_libraries()
        _replace_closed_streams()
        _check_words(sys.argv[1:])
        with _one_voice():
            return leave(_carried_out())
    except CloraError as error:
        code, message = error.exit_code, _told_of_others(error.__cause__) or str(error)
    except TyperException as error:
        code, message = 2, _told_of_usage(error)
        say = _show if "\n" in message else _complain
    except BrokenPipeError:  # the reader of our output left, as `head` does
        give_up(sys.stdout)
        code, message = 1, ""
    except (OSError, UnicodeError) as error:  # what no command has words for
        give_up(sys.stdout)
        where = getattr(error, "filename", None) or "input or output"
        why = getattr(error, "strerror", None) or error
        code, message = 1, f"{where}: {why}; check the name, its permissions and the disk"
    except (MemoryError, RuntimeError) as error:
        code, message = 1, _told_of_memory(error) or _told_of_others(error)
        if not message:
            end_all(1)
            raise
    except BaseException:  # a signal, or a fault of this program, which shows its traceback
        end_all(signals.exit_code() if signals.received() else 1)
        raise
    return end_all(code, message, say)


def _carried_out() -> int:
    """Run the command, again from the start where what it read was replaced meanwhile: it has done nothing yet."""
    turns = 1 if launched() else _TURNS  # else the others would not know
    for turn in range(turns):
        try:
            with blaming():
                return int(app(filled(sys.argv[1:]), standalone_mode=False) or 0)
        except ReplacedError:
            if turn == turns - 1:
                raise
            time.sleep(random.uniform(0, _PAUSE))  # not in step with the process that replaces it
    return 0


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Leave standard output to the first process of a launch."""
    with contextlib.ExitStack() as stack:
        if not is_main_process():
            nothing = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
        yield


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise OptionError(f"{word!a} is not UTF-8; rename the file or folder", code="argument-not-utf8") from None


def _check_here() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:  # relative paths lead nowhere then, and libraries end the process in their own words
        raise CloraError(
            "the folder that this shell is in is no longer there; cd to one that is", code="working-folder-gone"
        ) from None


def _replace_closed_streams() -> None:
    # A shell's `>&-` leaves no stream at all, and Python None in its place.
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open(encoding="utf-8")
    sys.stdout = sys.stdout or nothing.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nothing.open("w", encoding="utf-8")


def _complain(message: str) -> None:
    tell(f"error: {shortened(legible(' '.join(message.split())), _LONGEST)}")


def _show(text: str) -> None:
    tell(text)


def _told_of_memory(error: MemoryError | RuntimeError) -> str:
    """Return the message for a lack of memory; else nothing."""
    if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
        return ""
    return "out of memory; give less at once: a smaller --batch-size, --max-length or --rank"


def _told_of_others(error: BaseException | None) -> str:
    """Return the message for an error caused by the end of another process; else nothing."""
    if not isinstance(error, RuntimeError) or not fallen_out(error):
        return ""
    why = re.sub(r"^\[.*?\] |\. .*", "", str(error).partition("\n")[0])
    return f"another process of this launch has gone, out of memory perhaps ({why}); see its log"


def _told_of_usage(error: TyperException) -> str:
    message = str(error.format_message())
    if "\n" in message:  # the whole help: a command without arguments
        return message
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "clora"
    return f"{message.rstrip('.')}; see {command} --help"


def _quieten_libraries() -> None:
    # Set before they are imported. Their bars and notices would mix with ours; errors still come through.
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
