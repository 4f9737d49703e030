"""What routes.yaml says of traffic, as the rules that the core applies."""

from math import inf

import pytest

from gateway.config.settings import BalanceSettings
from gateway.config.traffic import BreakerSettings, EjectionSettings, rules_of
from gateway.core.pick import POLICIES, PROMPTED


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_who_gets_the_long_prompts_is_no_outlier(policy: str) -> None:
    rules = rules_of(BalanceSettings(policy=policy), EjectionSettings(latency=4), BreakerSettings())
    assert rules.slowness == (inf if policy in PROMPTED else 4)
    assert rules.failures == EjectionSettings().failures
