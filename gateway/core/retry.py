"""Another attempt: when it is safe, when it is due, and how many there may be."""

from email.utils import parsedate_to_datetime


def asked_pause(value: bytes | None, wall: float) -> float:
    """Seconds that a Retry-After field asks for (RFC 9110, 10.2.3); 0.0 if there is none that can be read. `wall`:
    seconds since the epoch, for a field that names a date."""
    if not value:
        return 0.0
    if value.isdigit():
        return float(value[:9])  # 31 years are as good as for ever
    try:
        return max(parsedate_to_datetime(value.decode("ascii")).timestamp() - wall, 0.0)
    except (ValueError, OverflowError):  # UnicodeDecodeError is one
        return 0.0
