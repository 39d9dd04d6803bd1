"""The module `signal` without its enums, which take too long to make for `fabmon run`: numbers are plain numbers."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
else:
    try:
        import _signal as signals
    except ImportError:
        import signal as signals

__all__ = ["signals"]
