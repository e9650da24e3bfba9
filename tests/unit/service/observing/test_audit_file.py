"""The file of the audit log: whole lines, a bounded number of files, one writer."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.errors import InvalidInput
from service.observing.audit_file import AuditFile, Unwritten, check, of_worker

LINES = [f"{number:09}\n".encode() for number in range(100)]


@contextmanager
def small_files() -> Iterator[None]:
    """Within it no file of this process may grow beyond a thousand bytes, as on a disk that is nearly full.

    No fixture: pytest reports before it tears down, and its own output may be a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def opened(path: Path, *, bytes_at_most: int = 1000, files: int = 3) -> AuditFile:
    return AuditFile(path, bytes_at_most=bytes_at_most, files=files)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lines_are_appended_to_what_is_there_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for first in (0, 2):
        file = opened(path)
        file.write(LINES[first : first + 2])
        file.close()
    assert path.read_bytes().splitlines(keepends=True) == LINES[:4]
    assert mode_of(path) == 0o600


def test_a_full_file_is_numbered_and_the_oldest_goes_even_within_one_call(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = opened(path, bytes_at_most=105)
    file.write(LINES[:25])
    for line in LINES[25:45]:
        file.write([line])
    file.close()
    found = sorted(tmp_path.iterdir())
    assert found == [path, tmp_path / "audit.jsonl.1", tmp_path / "audit.jsonl.2"]
    kept = b"".join(each.read_bytes() for each in reversed(found))
    assert kept.splitlines(keepends=True) == LINES[20:45]
    assert max(each.stat().st_size for each in found) == 100
    assert {mode_of(each) for each in found} == {0o600}


def test_a_line_longer_than_a_file_may_be_gets_one_of_its_own(tmp_path: Path) -> None:
    file = opened(tmp_path / "audit.jsonl", bytes_at_most=1)
    file.write(LINES[:2])
    assert (tmp_path / "audit.jsonl.1").read_bytes() + (tmp_path / "audit.jsonl").read_bytes() == b"".join(LINES[:2])


def test_one_file_is_begun_anew_when_no_other_may_be_kept(tmp_path: Path) -> None:
    file = opened(tmp_path / "audit.jsonl", bytes_at_most=25, files=1)
    file.write(LINES[:5])
    assert list(tmp_path.iterdir()) == [tmp_path / "audit.jsonl"]
    assert (tmp_path / "audit.jsonl").read_bytes() == LINES[4]


def test_a_file_that_others_may_read_keeps_its_mode_and_hands_it_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch()
    path.chmod(0o640)
    file = opened(path, bytes_at_most=10)
    file.write(LINES[:2])
    assert [mode_of(path), mode_of(tmp_path / "audit.jsonl.1")] == [0o640, 0o640]


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_was_renamed_or_removed_is_left_and_a_new_one_begun(tmp_path: Path, moved: bool) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl-20261125"
    file = opened(path)
    file.write(LINES[:1])
    if moved:
        path.rename(old)
    else:
        path.unlink()
    file.write(LINES[1:2])
    assert path.read_bytes() == LINES[1]
    assert not moved or old.read_bytes() == LINES[0]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    first = opened(tmp_path / "audit.jsonl")
    with pytest.raises(InvalidInput, match="another process writes to it"):
        check(tmp_path / "audit.jsonl")
    first.close()
    check(tmp_path / "audit.jsonl")


def test_a_place_where_nothing_can_be_written_is_refused_with_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "audit.jsonl"):
        with pytest.raises(InvalidInput, match=r"HAUBERK_AUDIT_FILE .+ cannot be written \(.+\); name another file, or none"):
            check(path)


def test_a_pipe_is_written_to_where_somebody_reads_it_and_not_waited_for_where_nobody_does(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InvalidInput, match=r"pipe cannot be written \(it is a pipe that nobody reads, or a socket\)"):
        check(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = opened(path, bytes_at_most=1)
    file.write(LINES[:3])
    file.close()
    assert os.read(reader, 1000) == b"".join(LINES[:3])
    os.close(reader)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to_and_not_rotated(tmp_path: Path) -> None:
    file = opened(Path("/dev/null"), bytes_at_most=1)
    file.write(LINES)
    file.close()
    assert Path("/dev/null").is_char_device()


def test_a_symbolic_link_is_followed_and_not_rotated(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    file = opened(link, bytes_at_most=1)
    file.write(LINES[:3])
    assert link.is_symlink()
    assert target.read_bytes() == b"".join(LINES[:3])


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    file = opened(Path("/dev/full"))
    for _ in range(2):
        with pytest.raises(Unwritten, match="no space left on device") as failure:
            file.write(LINES)
        assert failure.value.written == 0


def test_after_a_disk_was_full_lines_are_whole(tmp_path: Path) -> None:
    file = opened(tmp_path / "audit.jsonl", bytes_at_most=100_000)
    file.write(LINES[:90])
    with small_files(), pytest.raises(Unwritten):
        file.write(LINES[90:95] * 20)
    assert (tmp_path / "audit.jsonl").read_bytes() == b"".join(LINES[:90])
    file.write(LINES[90:95])
    assert (tmp_path / "audit.jsonl").read_bytes() == b"".join(LINES[:95])


def test_each_worker_has_a_file_of_its_own() -> None:
    path = Path("/var/log/audit.jsonl")
    assert [of_worker(path, worker) for worker in (1, 2)] == [path, Path("/var/log/audit-2.jsonl")]
