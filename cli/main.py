"""Where the command `sira` starts: parse, run one verb, turn every end into an exit code.

Nothing heavy is imported before the arguments are known: help and errors are instant, and `sira up`
can make its supervisor before gRPC starts a thread.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from sira.cli.output import CliError, Output, Result
    from sira.cli.table import Verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sira` with `argv` (default: the process's own); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Workers are new processes, never forks that go on: gRPC need not watch for forks, nor warn.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        return _main(words)
    except BrokenPipeError:
        # The reader has gone, as in `sira sub ">" | head`. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    finally:
        _let_go_of_log()


def _let_go_of_log() -> None:
    """Drop log lines that cannot be written: Python would try once more at exit, and exit 120."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk; a closed stream
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _Deferred:
    """Holds Ctrl-C back while modules load: numpy, for one, cannot be loaded half, then again."""

    def __init__(self) -> None:
        self._came = False
        main = threading.current_thread() is threading.main_thread()
        # Ignored, or handled by somebody else: left alone.
        self._active = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._active:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, *_signal: object) -> None:
        self._came = True

    def end(self) -> None:
        """Let Ctrl-C through again. Raises KeyboardInterrupt when it came meanwhile."""
        if self._active:
            self._active = False
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._came:
                raise KeyboardInterrupt


def _main(words: list[str]) -> int:
    deferred = _Deferred()
    from sira.cli.output import CliError, Output, UsageError
    from sira.cli.parser import beyond, build, expand_default

    out = Output("", as_json="--json" in words)
    try:
        deferred.end()
        asked = beyond(words)
        if asked is not None:
            from sira.cli.verbs import OF_SERVICES

            out.as_json = asked.json
            result = _run(OF_SERVICES, asked, out)
            out.result(result.data)
            return result.exit_code
        parser = build()
        args = parser.parse_args(expand_default(words))
        if args.tell_version:
            args = parser.parse_args(["version", *(["--json"] if args.json else [])])
        if args.emit_spec or args.completion:
            return _print_table(args)
        verb: Verb | None = getattr(args, "verb", None)
        if verb is None:
            if not out.as_json:
                parser.print_help(sys.stderr)
            raise UsageError("no verb given", help="see `sira --help`")
        out.verb, out.as_json = verb.name, args.json
        result = _run(verb, args, out)
        out.result(result.data)
        return result.exit_code
    except CliError as error:
        out.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return _fail(out, _interrupted())
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(out, _translate(error))


def _fail(out: Output, error: CliError) -> int:
    out.error(error)
    return error.exit_code


def _run(verb: Verb, args: argparse.Namespace, out: Output) -> Result:
    deferred = _Deferred()
    try:
        module, _, name = verb.run.partition(":")
        handler: Any = getattr(import_module(f"sira.cli.{module}"), name)
        if inspect.iscoroutinefunction(handler):  # `up` is none: it must not load an event loop
            from sira.cli.link import run_async

            handler = partial(run_async, handler, endless=verb.endless)
    finally:
        deferred.end()
    result: Result = handler(args, out)
    return result


def _print_table(args: argparse.Namespace) -> int:
    from sira.cli.spec import completion, specification

    if args.completion:
        sys.stdout.write(completion(args.completion))
    else:
        json.dump(specification(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    return 0


def _interrupted() -> CliError:
    from sira.cli.output import EXIT_INTERRUPTED, CliError

    return CliError("INTERRUPTED", "interrupted before it was done", exit_code=EXIT_INTERRUPTED)


def _translate(error: Exception) -> CliError:
    """Turn what a verb raised into one line; SIRA_TRACE=1 shows the trace of any."""
    from sira.cli.output import EXIT_REFUSED, EXIT_UNREACHABLE, CliError
    from sira.kernel.errors import SiraError, Unreachable

    if os.environ.get("SIRA_TRACE"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, SiraError):
        help_text = error.help
        exit_code = EXIT_REFUSED
        if isinstance(error, Unreachable):
            exit_code = EXIT_UNREACHABLE
            if help_text == Unreachable.help:
                help_text = "start a node with `sira up`, or name one with --url or SIRA_URL"
        return CliError(
            error.code,
            str(error),
            help=help_text,
            exit_code=exit_code,
            retryable=error.retryable,
            details=error.details,
        )
    if isinstance(error, OSError):
        return CliError(
            "OS_ERROR", str(error), help="check the path and its rights", exit_code=EXIT_REFUSED
        )
    return CliError(
        "INTERNAL",
        f"{type(error).__name__}: {error}",
        help="a fault of this command: SIRA_TRACE=1 shows where",
        exit_code=EXIT_REFUSED,
    )
