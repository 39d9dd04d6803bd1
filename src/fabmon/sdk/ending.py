"""How a run ended, told from the exception that left it.

None: succeeded. KeyboardInterrupt, a task's cancellation, a closed generator, and SystemExit with the code that a shell
gives to SIGHUP, SIGINT or SIGTERM: canceled. SystemExit with 0 or nothing: succeeded. Everything else: failed.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fabmon.sdk.events import VALUE_LIMIT_CHARACTERS, text_of
from fabmon.wire.event import Kind, Status

_CODES_OF_SIGNALS: Final = (129, 130, 143)


class Ending(NamedTuple):
    kind: Kind
    status: Status
    metadata: Mapping[str, Any]


def ending_of(error: BaseException | None) -> Ending:
    if error is None:
        return Ending("finished", "succeeded", {})
    if isinstance(error, SystemExit):
        return _ending_of_exit(error)
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or _is_cancellation(error):
        return Ending("canceled", "canceled", {"canceled_by": type(error).__name__})
    return Ending("error", "failed", {"error": shown_error(error)} | _place(error))


def shown_error(error: BaseException | str) -> str:
    """`Type: text`, as the last line of a traceback has it."""
    if isinstance(error, str):
        return text_of(error, VALUE_LIMIT_CHARACTERS)
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  (its own __str__)
        said = ""
    return text_of(f"{type(error).__name__}: {said}" if said else type(error).__name__, VALUE_LIMIT_CHARACTERS)


def _ending_of_exit(error: SystemExit) -> Ending:
    if error.code in (None, 0):
        return Ending("finished", "succeeded", {"exit_code": 0})
    if error.code in _CODES_OF_SIGNALS:
        return Ending("canceled", "canceled", {"canceled_by": "SystemExit", "exit_code": error.code})
    code = error.code if isinstance(error.code, int) and -(2**31) <= error.code < 2**32 else 1
    return Ending("error", "failed", {"error": shown_error(error), "exit_code": code})


def _is_cancellation(error: BaseException) -> bool:
    """asyncio's or trio's; a program that has not imported them cannot have got one."""
    asyncio = sys.modules.get("asyncio.exceptions")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return True
    return type(error).__name__ == "Cancelled" and type(error).__module__.partition(".")[0] == "trio"


def _place(error: BaseException) -> dict[str, str]:
    """Where it was raised: the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return {}
    return {"error_at": text_of(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")}
