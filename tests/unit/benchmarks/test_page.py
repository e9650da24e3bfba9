"""The page of the benchmarks, section by section."""

from __future__ import annotations

from benchmarks.__main__ import page_with

OLD = "# Benchmarks\n\nhead\n\n## One\n\n2026-01-01, here.\n\nfirst\n\n## Two\n\nsecond\n"


def test_a_section_takes_the_place_of_the_one_with_its_heading() -> None:
    page = page_with(OLD, "## One\n\nnew\n", "2026-02-02, there.")
    assert page.startswith("# Benchmarks\n")
    assert page.endswith("\n## One\n\n2026-02-02, there.\n\nnew\n\n## Two\n\nsecond\n")


def test_a_section_with_a_new_heading_comes_last() -> None:
    page = page_with(OLD, "## Three\n\nthird\n", "2026-02-02, there.")
    assert page.endswith("## Two\n\nsecond\n\n## Three\n\n2026-02-02, there.\n\nthird\n")
    assert "first" in page


def test_writing_the_same_section_twice_changes_nothing_more() -> None:
    once = page_with(OLD, "## One\n\nnew\n", "stamp")
    assert page_with(once, "## One\n\nnew\n", "stamp") == once
