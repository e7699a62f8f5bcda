"""Entry of every participant process: `python -m benches.worker FD`.

The first line on FD names a function `module:name` and its parameters. A coroutine function runs on
uvloop. Whatever goes wrong is told to the coordinator as `error`, with the traceback.
"""

from __future__ import annotations

import importlib
import inspect
import os
import socket
import sys
import traceback

from benches.link import Link, Quit


def main() -> None:
    """Run the named function, then leave at once: teardown is not what is measured."""
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    try:
        task = link.hear("start")
        link.params = task["params"]
        if task["cpu"] is not None:
            os.sched_setaffinity(0, {task["cpu"]})  # before a thread is made: each inherits it
        module_name, _, function_name = task["entry"].partition(":")
        function = getattr(importlib.import_module(module_name), function_name)
        if inspect.iscoroutinefunction(function):
            import uvloop

            uvloop.run(function(link))
        else:
            function(link)
        link.rest()
    except Quit:
        pass
    except BaseException:
        try:
            link.say("error", traceback=traceback.format_exc())
            link.rest()
        except (OSError, Quit):
            pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
