"""Check what a config names before it is imported."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jsonargparse import _actions, _common, _typehints, _util

import_object: Callable[..., Any] = _util.import_object


@contextmanager
def imports_checked(check: Callable[[str], None]) -> Iterator[None]:
    """Call ``check``, which may raise, with each dotted path that jsonargparse is about to import for a value.

    It is called wherever the path stands: in an alias, in a string of YAML, or in a file that a value names.
    """

    def import_checked(name: str, check_path: bool = True) -> Any:
        if check_path and isinstance(name, str):  # else the path is a type or default in the code
            check(name)
        return import_object(name, check_path=False)

    before = [(_actions, "import_object"), (_typehints, "import_object"), (_typehints, "check_import_path")]
    originals = [getattr(module, name) for module, name in before]
    for module, name in before:
        setattr(module, name, import_checked if name == "import_object" else check)
    try:
        yield
    finally:
        for (module, name), original in zip(before, originals, strict=True):
            setattr(module, name, original)


def required_optional() -> AbstractContextManager[None]:
    """Let parsers accept settings in which required ones are missing."""
    return _common.parser_context(lenient_check=True)
