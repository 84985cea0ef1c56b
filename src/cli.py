"""Command line: ``python -m src.cli COMMAND [--config FILE ...] [--run DIR] [--key=value ...]``."""

import signal
import sys
from typing import Any

from src import UserError
from src.arguments import COMMANDS, USAGE, read
from src.memory import importing, keep_freed


def main(args: list[str] | None = None) -> Any:
    """Run one command, by default the one in ``sys.argv``; exit with 2 and one line after a mistake of the user's."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())), end="")  # noqa: T201
        return None
    try:
        command, options = read(args)
        keep_freed()
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:  # an interrupted import raises anything
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        with importing():
            from src.commands import run  # takes seconds: a mistyped name is refused before
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)
        return run(command, options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")  # at once: several processes may say it
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
