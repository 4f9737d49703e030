"""`gateway.limits` as connections read them: several times a request, for which a validated model is too slow."""

from gateway.config.settings import Limits


class Bounds:
    """The limits of one connection and its requests: bytes, counts, seconds, bytes a second."""

    def __init__(self, limits: Limits) -> None:
        self.header_bytes: int = limits.header_bytes
        self.header_line_bytes: int = limits.header_line_bytes
        self.header_count: int = limits.header_count
        self.target_bytes: int = limits.target_bytes
        self.headers_timeout: float = limits.headers_timeout
        self.trailer_bytes: int = limits.trailer_bytes
        self.body_idle: float = limits.body_idle
        self.body_rate: int = limits.body_rate
        self.write_bytes: int = limits.write_bytes
        self.write_idle: float = limits.write_idle
        self.write_rate: int = limits.write_rate
        self.keep_alive: float = limits.keep_alive
        self.requests: int = limits.requests
