"""Asking the operator's door of a running gateway, for the commands that do."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from pydantic import ValidationError

from gateway.admin.guard import read_token
from gateway.cli.output import fail
from gateway.config.document import read_document
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.settings import GatewaySettings, Settings
from gateway.config.values import as_authority, parse_listen

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}

Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration: it says where to ask.")]
Admin = Annotated[str, typer.Option(help="host:port of the admin port, instead of the configuration's.")]


@dataclass(frozen=True)
class Door:
    """Where a gateway is asked, and with what token."""

    address: tuple[str, int]
    token: str | None

    @classmethod
    def of(cls, config: Path, admin: str) -> "Door":
        """Ends the command where neither can be known."""
        try:
            if admin:
                return cls(parse_listen(admin), read_token(None))
            gateway = _where(config)
            return cls(gateway.admin, read_token(gateway.admin_token_file))
        except ConfigError as error:
            fail(f"{error}\n--admin host:port asks a gateway without reading its configuration.")
        except (OSError, ValueError) as error:
            fail(str(error))

    @property
    def authority(self) -> str:
        return as_authority(_ANYWHERE.get(self.address[0], self.address[0]), self.address[1])

    def ask(
        self, method: str, path: str, *, params: dict[str, str] | None = None, timeout: float = 5.0
    ) -> httpx2.Response:
        """The answer, whatever its status but 401. Ends the command if there is none within `timeout` seconds."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"http://{self.authority}{path}"
        try:
            answer = httpx2.request(method, url, params=params, headers=headers, timeout=timeout, trust_env=False)
        except httpx2.ConnectError:
            fail(f"The gateway is not running: nothing listens on {self.authority}.")
        except httpx2.HTTPError as error:
            fail(f"{self.authority} does not answer: {error or type(error).__name__}.")
        if answer.status_code == 401:
            fail(f"{self.authority} wants its admin token: GATEWAY_ADMIN_TOKEN, or gateway.admin_token_file.")
        return answer


def _where(config: Path) -> GatewaySettings:
    """What says where to ask. The rest may be wrong: what runs must be seen, and an endpoint drained, at any time."""
    data = read_document(config, os.environ).data
    found = data.get("gateway") if isinstance(data, dict) else None
    named = (
        {key: found[key] for key in ("admin", "admin_token_file") if key in found} if isinstance(found, dict) else {}
    )
    try:
        return Settings.model_validate({"gateway": named}, context={"base": config.absolute().parent}).gateway
    except ValidationError:
        return load(config).gateway  # names the line
