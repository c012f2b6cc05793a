"""Numbers as text, for messages, tables and logs."""


def format_duration(seconds: float) -> str:
    """A duration in at most two units.

    Examples:
        >>> [format_duration(seconds) for seconds in (45.0, 720.0, 12000.0, 187200.0)]
        ['45 s', '12 min', '3 h 20 min', '2 d 4 h']
    """
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
