"""The command line of the trainer: flags, the beginning and the end of the run, exit codes.

Nothing heavy is imported before the mistakes in options are told. Exit codes: 0 done,
1 failed, 2 a mistake in the configuration, 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillion._variables import variable
from pillion_trainer.config import ConfigurationError, TrainingConfig, nearest
from pillion_trainer.config_file import Found, read_config
from pillion_trainer.failures import explanation, reason
from pillion_trainer.options import kind_of
from pillion_trainer.stopping import StopRequest

if TYPE_CHECKING:
    from pillion_trainer.checks import Checked

FAILED = 1
MISTAKEN = 2
EXTRA = ("torch", "transformers", "peft", "accelerate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tune as the flags say, and return the exit code."""
    options, strange = _parser().parse_known_args(arguments)
    stop = StopRequest()
    try:
        found = read_config(options.config, _given(options))
        unknown = _unknown_flags(strange, options)
        with stop.listening():
            if unknown or found.mistakes:
                return _tell_all(found, unknown, options)
            config = found.config
            assert config is not None, "there are no mistakes"
            _prepare_process(options.threads)
            say = _silent if options.quiet else _say
            if options.prepare:
                return _prepare(say)
            if options.check:
                return _check(config, options, say)
            if options.generate is not None:
                return _generate(options, config.seed)
            return _train(config, options, stop, say)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            _complain(mistake)
        return MISTAKEN
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRA:
            raise
        _complain(f"{library} is missing; in a checkout of Pillion: pip install -e '.[trainer]'")
        return MISTAKEN
    except KeyboardInterrupt:
        _end_runs(stop)
        return stop.exit_code or 130


def _unknown_flags(strange: Sequence[str], options: argparse.Namespace) -> dict[str, str]:
    """Return the flags that there are not, and what each was perhaps meant to be, if that is known.

    Args:
        strange: What argparse has no use for: flags, the values behind them, stray words.
        options: What it has read.
    """
    short = [option.metadata["flag"] for option in fields(TrainingConfig)]
    unknown = {}
    for before, each in zip(["", *strange], strange, strict=False):
        flag = each.partition("=")[0]
        if flag.startswith("--"):
            name = flag.removeprefix("--").replace("-", "_")
            unknown[flag] = nearest(name, [*vars(options), *filter(None, short)])
        elif not before.startswith("--") or "=" in before:
            unknown[each] = ""
    return unknown


def _tell_all(found: Found, unknown: Mapping[str, str], options: argparse.Namespace) -> int:
    """Tell what is wrong with flags and options, and then what machine and data show beside it."""
    for flag, near in unknown.items():
        hint = f"did you mean --{near.replace('_', '-')}?" if near else "see --help for the options"
        _complain(f"{flag} is no option: {hint}")
    for mistake in found.mistakes:
        _complain(mistake)
    if found.config is None or options.prepare or options.generate is not None:
        return MISTAKEN
    _prepare_process(options.threads)
    _checked(found.config, options, {*found.wrong, *unknown.values()})
    return MISTAKEN


def _end_runs(stop: StopRequest) -> None:
    """End a run whose start was broken off: `init` has not returned it."""
    from pillion._run import open_runs  # noqa: PLC0415

    for run in list(open_runs):
        run.finish(stop.exit_code or 130, state="STOPPED", reason=f"Stopped by {stop.signal_name}.")


def _train(
    config: TrainingConfig,
    options: argparse.Namespace,
    stop: StopRequest,
    say: Callable[[str], None],
) -> int:
    """Fine-tune between `init` and `finish`; whatever happens, the run is finished."""
    from pillion_trainer.training import fine_tune  # noqa: PLC0415

    checked = _checked(config, options)

    import pillion  # noqa: PLC0415

    try:
        run = pillion.init(
            project=config.project,
            name=config.name,
            group=config.group or "",
            job_type="fine-tune",
            model=config.model,
            dataset=config.data or "logbook",
            use_case="fine-tune",
            tags=config.tags,
            id=options.run_id,
            address=options.address,
            quiet=options.quiet or None,
        )
    except (ValueError, pillion.RefusedError) as error:
        raise ConfigurationError(str(error)) from error
    exit_code, why = FAILED, ""
    try:
        result = fine_tune(
            config, run, stop=stop, say=None if options.quiet else say, checked=checked
        )
        exit_code = stop.exit_code
        say("stopped after the current step, as asked" if stop.is_made else result.in_words())
        say(f"adapter: {result.adapter_dir} ({result.adapter_size_bytes / 2**20:.1f} MiB)")
    except ConfigurationError as error:
        exit_code, why = MISTAKEN, reason(error, config)
        raise
    except KeyboardInterrupt:
        exit_code = stop.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost frame: the run must know of it
        why = reason(error, config)
        if sentence := explanation(error, config):
            _complain(sentence)
        else:
            traceback.print_exc()
    finally:
        if stop.is_made:
            run.finish(exit_code, state="STOPPED", reason=f"Stopped by {stop.signal_name}.")
        else:
            run.finish(exit_code, reason=why)
    return exit_code


def _prepare(say: Callable[[str], None]) -> int:
    """Make the built-in base model where it is not there yet."""
    from pillion_trainer.base_model import ensure_base_model, in_lines  # noqa: PLC0415

    say(f"base model: {ensure_base_model(progress=in_lines(say))}")
    return 0


def _check(config: TrainingConfig, options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Say what would be done, or raise `ConfigurationError`."""
    for line in _checked(config, options).plan(config):
        say(line)
    return 0


def _checked(
    config: TrainingConfig, options: argparse.Namespace, wrong: AbstractSet[str] = frozenset()
) -> "Checked":
    """Check all that can be before there is a run; one that was begun for us has no steps yet."""
    from pillion_trainer.checks import check  # noqa: PLC0415
    from pillion_trainer.earlier import steps_of_run  # noqa: PLC0415

    steps = steps_of_run(options.run_id, options.address)
    return check(config, options.run_id or variable("id") or None, steps, wrong)


def _generate(options: argparse.Namespace, seed: int) -> int:
    """Print how the base model goes on from a prompt, and how it does with an adapter."""
    if options.adapter is None:
        raise ConfigurationError("adapter is not given: give --adapter, the output of a training")

    from pillion_trainer.generation import (  # noqa: PLC0415
        asks_in_chats,
        generate,
        load_adapter,
    )

    model, tokenizer = load_adapter(options.adapter)
    is_turn = not options.raw and asks_in_chats(tokenizer)
    for title, uses_adapter in (("The base model", False), ("With the adapter", True)):
        said = generate(
            model,
            tokenizer,
            options.generate,
            options.max_new_tokens,
            seed=seed,
            temperature=options.temperature,
            uses_adapter=uses_adapter,
            raw=options.raw,
        )
        text = said if is_turn else options.generate + said  # an answer, or how it goes on
        print(f"{title}:\n{_printable(text)}\n", flush=True)
    return 0


def _printable(text: str) -> str:
    """Keep what a model says from steering the terminal."""
    return "".join(
        each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def _prepare_process(threads: int | None) -> None:
    """Set the threads, which torch reads when it is loaded, and keep its libraries quiet."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"torch|transformers|peft|accelerate")

    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pillion_trainer",
        description="Fine-tune a causal language model with LoRA, DoRA or IA3, logged by Pillion.",
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        allow_abbrev=False,
    )
    own = parser.add_argument_group("this process")
    own.add_argument(
        "--config", type=Path, metavar="FILE", help="options as TOML or YAML; flags win"
    )
    own.add_argument("--address", help="where the sidecar listens; else as the client finds it")
    own.add_argument("--run-id", help="the id of the run, to resume or to know it")
    own.add_argument("--threads", type=int, metavar="N", help="CPU threads of torch")
    own.add_argument("--quiet", action="store_true", help="print mistakes only")
    own.add_argument(
        "--prepare", action="store_true", help="make the built-in base model, if need be, and end"
    )
    own.add_argument(
        "--check",
        action="store_true",
        help="check options, data and machine, say the plan, and end",
    )
    own.add_argument(
        "--generate", metavar="PROMPT", help="print what base and --adapter say after it, and end"
    )
    own.add_argument("--adapter", type=Path, metavar="DIR", help="the output of a training")
    own.add_argument(
        "--max-new-tokens", type=int, default=200, metavar="N", help="of --generate, at most (200)"
    )
    own.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="of --generate; 0: always the likeliest token, else by --seed (0)",
    )
    own.add_argument(
        "--raw",
        action="store_true",
        help="of --generate: no user's turn, also where --adapter was tuned on chats",
    )
    for option in fields(TrainingConfig):
        if heading := option.metadata["group"]:
            group = parser.add_argument_group(heading)
        names = [option.metadata["flag"], option.name.replace("_", "-")]
        group.add_argument(
            *(f"--{name}" for name in names if name),
            dest=option.name,
            metavar="VALUE",
            nargs="?" if kind_of(option) is bool else None,
            const="true" if kind_of(option) is bool else None,
            help=f"{option.metadata['help']}{_default_in_words(option.default)}",
        )
    return parser


def _default_in_words(default: Any) -> str:
    if default in (None, "", ()):
        return ""
    return f" ({str(default).lower()})" if isinstance(default, bool) else f" ({default})"


def _given(options: argparse.Namespace) -> dict[str, str]:
    """Return the texts of the training's flags that were given."""
    names = [option.name for option in fields(TrainingConfig)]
    return {name: text for name in names if (text := getattr(options, name)) is not None}


def _say(line: str) -> None:
    print(f"trainer: {line}", flush=True)


def _silent(_line: str) -> None:
    pass


def _complain(line: str) -> None:
    print(f"trainer: {line}", file=sys.stderr, flush=True)
