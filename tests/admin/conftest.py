from pathlib import Path

import pytest

from tests.admin.gateway_view import Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "metrics")
