from pathlib import Path

from gateway.server.memory import used


def test_of_a_limit_of_its_own_a_process_uses_what_is_resident() -> None:
    assert 0.0 < used(2**40) < 0.01
    assert used(2**20) > 1.0


def test_without_one_the_control_groups_limit_counts_without_pages_that_are_given_back(tmp_path: Path) -> None:
    assert used(None, tmp_path) == 0.0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 400\n")
    assert used(None, tmp_path) == 0.0
    (tmp_path / "memory.max").write_text("1000\n")
    assert used(None, tmp_path) == 0.5
