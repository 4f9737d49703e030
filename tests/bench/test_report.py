import json

from bench.report import document, missed, table, write
from bench.row import Outcome, Row


def outcome(gateway, peer, bar=1.5, name="small"):
    row = Row(name, "small requests", ("CPU µs/request",), (), lambda run: {}, bars={"peer": bar})
    return Outcome(
        row,
        {each: [{"CPU µs/request": v} for v in values] for each, values in (("gateway", gateway), ("peer", peer))},
        0.0,
    )


def test_a_missed_bar_is_named_with_its_ratio():
    assert missed(outcome([40, 40, 40], [20, 20, 20])) == ["small: 2.00 times peer, over its bar of 1.5"]


def test_a_peer_that_was_skipped_misses_no_bar():
    found = outcome([40], [20])
    assert missed(Outcome(found.row, {"gateway": found.samples["gateway"]}, 0.0)) == []


def test_a_bar_that_noise_may_have_missed_is_not_missed():
    found = outcome([28, 32, 38], [20, 20, 20])  # 1.6, from 1.4 to 1.9
    assert missed(found) == []
    assert "bar 1.5: within the noise" in table(found)


def test_the_table_has_the_median_the_spread_and_the_ratio():
    lines = table(outcome([30, 10, 20], [10, 10, 10])).splitlines()
    assert lines[0] == "small: small requests"
    assert lines[1].split() == ["CPU", "µs/request", "gateway", "20.0", "(10.0", "to", "30.0)"]
    assert lines[2].endswith("ratio 2.00 (1.00 to 3.00)  bar 1.5: within the noise")


def test_other_work_on_the_machine_is_told():
    found = outcome([10], [10])
    assert "other processes had 30%" in table(Outcome(found.row, found.samples, 0.3))
    assert "other processes" not in table(found)


def test_rows_that_were_not_run_this_time_keep_their_results(tmp_path):
    path = tmp_path / "results.json"
    write(path, document([outcome([10], [10], name="small")], {}, {}))
    write(path, document([outcome([30], [10], name="jwt")], {}, {"peer": "1.0"}))
    rows = json.loads(path.read_text())["rows"]
    assert rows["small"]["ratios"]["peer"] == [1, 1, 1]
    assert rows["jwt"]["ratios"]["peer"] == [3, 3, 3]
    assert rows["jwt"]["missed"] == ["jwt: 3.00 times peer, over its bar of 1.5"]


def test_what_the_gateway_may_cost_itself_is_a_bar_too():
    row = Row("idle", "idle streams", ("KiB", "ms"), (), lambda run: {}, ceilings={"KiB": 64, "ms": 3})
    samples = {"gateway": [{"KiB": v, "ms": 1.0} for v in (70, 71, 72)], "peer": [{"KiB": 5, "ms": 9.0}] * 3}
    found = Outcome(row, samples, 0.0)
    assert missed(found) == ["idle: KiB 71, over its bar of 64"]
    lines = table(found).splitlines()
    assert lines[1].endswith("bar 64: MISSED")
    assert lines[3].endswith("bar 3: met")
