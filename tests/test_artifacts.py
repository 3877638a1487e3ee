"""Files are whole or absent, and a damaged one is named, never believed."""

import errno
import hashlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from traitscope.utils.errors import UserError
from traitscope.utils.files import reading, tensors
from traitscope.utils.files.artifacts import (
    sweep_temporaries,
    temporary_name,
    write_bytes,
    write_json,
    write_text,
)
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.files.reading import digest, read_bytes, read_json
from traitscope.utils.files.tensors import load_tensor, read_vector_file, save_tensor

FAILURES = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
ANSWERS = {"a": {"text": "two\nlines\u2028 and 你好 — “quoted”"}, "b": None, "c": [1, 0.5, "x"]}


class Bomb:
    """A pickle that creates a folder when it is loaded the careless way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "folder" / "file.json"


@pytest.fixture
def tensor_file(tmp_path) -> Path:
    save_tensor(tmp_path / "vector.pt", torch.arange(4.0))
    return tmp_path / "vector.pt"


@pytest.fixture
def journal_file(tmp_path) -> Path:
    """Three answers, on disk."""
    journal = Journal(tmp_path / "stages" / "s.progress.jsonl")
    for key, answer in ANSWERS.items():
        journal.add(key, answer)
    return journal.path


def failing(error):
    def fail(*_args):
        raise error

    return fail


def refused(action) -> str:
    """Return the message of the UserError, which is one line."""
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read_back_and_folders_are_made(file):
    write_bytes(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    write_text(file, "über 你好\r\n")
    assert file.read_bytes() == "über 你好\r\n".encode()


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
def test_a_failing_write_keeps_the_old_file_and_leaves_no_temp_file(file, monkeypatch, step, error):
    write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(error))
        with pytest.raises(type(error)):
            write_text(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_first_write_leaves_nothing(file, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(FAILURES[0]))
        with pytest.raises(OSError, match="No space"):
            write_json(file, {})
    assert os.listdir(file.parent) == []


def test_the_new_content_is_whole_and_synced_in_a_sibling_before_the_old_is_replaced(file, monkeypatch):
    write_text(file, "old")
    seen = []
    fsync, replace = os.fsync, os.replace

    def checked_replace(source, target):
        seen.append("replace")
        assert Path(source).parent == file.parent
        assert (Path(source).read_text(), file.read_text()) == ("new", "old")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", checked_replace)
    write_text(file, "new")
    assert seen == ["fsync", "replace"]


def test_what_a_killed_process_left_is_swept_and_nothing_else(file, monkeypatch):
    kept = [".hidden", "notes.tmp", "older.json"]
    for name in kept:
        write_text(file.with_name(name), "kept")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)  # a killed process does not tidy up
        patch.setattr(os, "replace", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_text(file, "half")
    assert len(os.listdir(file.parent)) == len(kept) + 1
    sweep_temporaries(file.parent.parent)
    assert sorted(os.listdir(file.parent)) == kept
    sweep_temporaries(file.parent / "no such folder")


@pytest.fixture
def dead_pid() -> int:
    """The pid of a process that has ended, on every system here far above those that run."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_temp_file_is_hidden_beside_its_file_and_names_process_and_host(file):
    name = temporary_name(file).name
    assert temporary_name(file).parent == file.parent
    assert name.startswith(f".file.json.{os.getpid()}@")
    assert name.endswith(".tmp")
    assert "." not in name.removeprefix(".file.json.").removesuffix(".tmp")


def test_a_sweep_takes_only_what_a_dead_process_of_this_machine_left(file, dead_pid, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node-7.example.org")
    here = "node-7-example-org"
    swept = [
        f".a.json.{dead_pid}@{here}.tmp",
        f".a.json.{dead_pid}.tmp",  # as it was named before hosts were
        f".b.pt.{os.getpid()}@{here}.tmp",  # this process writes nothing now
        f".b.pt.{2**40}@{here}.tmp",  # no process has such a number
    ]
    kept = [
        f".a.json.{dead_pid}@node-8-example-org.tmp",  # whether that one lives cannot be told from here
        f".a.json.{os.getpid()}@node-8-example-org.tmp",
        f".a.json.{os.getppid()}@{here}.tmp",  # its process is alive
        f".a.json.{os.getppid()}.tmp",
        f".a.json.@{here}.tmp",
        ".a.json.tmp",
    ]
    for name in [*swept, *kept]:
        write_text(file.with_name(name), "half")
    sweep_temporaries(file.parent)
    assert sorted(os.listdir(file.parent)) == sorted(kept)


def test_json_survives_and_stays_readable_for_people(file):
    content = {"text": "“open quote — 你好", "none": None, "list": [1, 2.5, True]}
    write_json(file, content)
    assert read_json(file) == content
    assert "你好" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused_and_the_old_file_stays(file, number):
    write_json(file, {"score": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"rows": [{"score": number}]})
    assert read_json(file) == {"score": 1}


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b'{"a": 1,}', b"\xff\xfe\x00", b'{"a": "\x00"}', b"{}\n{}", b"[" * 200_000],
        pytest.param(b"1" * 5000, id="huge-integer"),
    ],
    ids=lambda c: repr(c[:12]),
)
def test_broken_json_is_a_user_error_that_names_the_file(file, content):
    write_bytes(file, content)
    assert str(file) in refused(lambda: read_json(file))


def test_missing_json_is_a_user_error_that_names_the_file(file):
    assert str(file) in refused(lambda: read_json(file))


def test_json_that_an_editor_began_with_a_byte_order_mark_is_read(file):
    write_bytes(file, b'\xef\xbb\xbf{"questions": []}')
    assert read_json(file) == {"questions": []}


def test_a_digest_is_of_the_content_and_none_without_a_file(file):
    assert digest(file) is None
    write_bytes(file, b"abc")
    assert digest(file) == hashlib.sha256(b"abc").hexdigest()


def test_the_same_values_give_the_same_bytes_under_different_paths(tmp_path):
    paths = [tmp_path / "a.pt", tmp_path / "deeper" / "another_name.pt"]
    sums = [save_tensor(path, torch.arange(6.0).reshape(2, 3)) for path in paths]
    assert sums[0] == sums[1] == digest(paths[0]) == digest(paths[1])


SAME = {  # tensors equal to torch.arange(4.0)
    "with gradient": lambda: torch.arange(4.0, requires_grad=True),
    "every other": lambda: torch.arange(0, 4, 0.5)[::2],
    "row of a matrix": lambda: torch.arange(12.0).reshape(3, 4)[0],
}


@pytest.mark.parametrize("name", [pytest.param(name) if name == "row of a matrix" else name for name in SAME])
def test_how_a_tensor_came_about_does_not_show_in_its_bytes(tmp_path, name):
    tensor = SAME[name]()
    assert torch.equal(tensor, torch.arange(4.0))
    assert save_tensor(tmp_path / "a.pt", tensor) == save_tensor(tmp_path / "b.pt", torch.arange(4.0))


def test_the_strides_of_a_single_row_do_not_show_in_its_bytes(tmp_path):
    strided = torch.zeros(5).as_strided((1, 5), (1, 1))
    assert save_tensor(tmp_path / "a.pt", strided) == save_tensor(tmp_path / "b.pt", torch.zeros(1, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_a_tensor_survives_with_its_type(tmp_path, dtype):
    tensor = torch.tensor([[1, -2, 3], [4, 5, 6]], dtype=dtype)
    checksum = save_tensor(tmp_path / "t.pt", tensor)
    loaded = load_tensor(tmp_path / "t.pt", (None, 3), checksum, (str(dtype).removeprefix("torch."),))
    assert loaded.dtype == dtype
    assert torch.equal(loaded, tensor)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (1, 4), (4, 1), (None, None)])
def test_a_tensor_of_another_shape_is_a_user_error_that_says_both_shapes(tensor_file, shape):
    message = refused(lambda: load_tensor(tensor_file, shape))
    assert str(tensor_file) in message
    assert "(4,)" in message
    assert str(shape) in message


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_a_user_error(tensor_file, number):
    save_tensor(tensor_file, torch.tensor([0.0, number, 1.0, 2.0]))
    assert str(tensor_file) in refused(lambda: load_tensor(tensor_file, (4,)))


def test_a_tensor_that_its_metadata_does_not_describe_is_a_user_error(tensor_file):
    described = digest(tensor_file)
    assert load_tensor(tensor_file, (4,), described).tolist() == [0, 1, 2, 3]
    save_tensor(tensor_file, torch.arange(4.0) + 1)
    assert str(tensor_file) in refused(lambda: load_tensor(tensor_file, (4,), described))


@pytest.mark.parametrize(
    "content",
    [
        *[b"hello world", b"\x00" * 64, b"PK\x03\x04garbage", b'{"not": "a tensor"}'],
        pytest.param(b""),
        pytest.param(b"\x80\x02"),
        pytest.param(b"."),
        pytest.param(b"J\x00"),
    ],
    ids=repr,
)
def test_what_is_not_a_tensor_file_is_a_user_error(tensor_file, content):
    tensor_file.write_bytes(content)
    assert str(tensor_file) in refused(lambda: load_tensor(tensor_file, (4,)))


@pytest.fixture(params=[False, True], ids=["read", "mapped"])
def mapping(request, monkeypatch):
    """Small files read as they are, and as large ones are: mapped."""
    if request.param:
        monkeypatch.setattr(tensors, "MAPPED", 0)


def test_a_mapped_tensor_is_the_same_and_outlives_its_file(tensor_file, mapping):
    loaded = load_tensor(tensor_file, (4,))
    save_tensor(tensor_file, torch.full((4,), 7.0))  # another file under the name
    assert loaded.tolist() == [0, 1, 2, 3]
    save_tensor(tensor_file, torch.tensor([0.0, 1.0, 2.0, float("nan")]))
    assert "NaN" in refused(lambda: load_tensor(tensor_file, (4,)))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_tensor_file_is_a_user_error(tensor_file, part, mapping):
    whole = tensor_file.read_bytes()
    tensor_file.write_bytes(whole[: int(part * len(whole))])
    assert str(tensor_file) in refused(lambda: load_tensor(tensor_file, (4,)))


def test_a_missing_tensor_is_a_user_error(tmp_path):
    assert str(tmp_path / "none.pt") in refused(lambda: load_tensor(tmp_path / "none.pt", (4,)))


@pytest.mark.parametrize(
    "save",
    [
        lambda path, bomb: torch.save(bomb, path),
        lambda path, bomb: path.write_bytes(pickle.dumps(bomb, protocol=2)),
    ],
)
def test_code_in_a_tensor_file_never_runs(tmp_path, save):
    save(tmp_path / "bomb.pt", Bomb(tmp_path / "exploded"))
    assert "bomb.pt" in refused(lambda: load_tensor(tmp_path / "bomb.pt", (4,)))
    assert not (tmp_path / "exploded").exists()


def test_a_saved_object_that_is_no_tensor_is_a_user_error(tmp_path):
    torch.save({"weight": torch.zeros(4)}, tmp_path / "dict.pt")
    assert "dict.pt" in refused(lambda: load_tensor(tmp_path / "dict.pt", (4,)))


def test_answers_survive_re_reading(journal_file):
    assert Journal(journal_file).answers == ANSWERS


def test_a_journal_without_a_file_is_empty_and_makes_none(tmp_path):
    journal = Journal(tmp_path / "none.jsonl")
    assert journal.answers == {}
    assert os.listdir(tmp_path) == []


def test_each_answer_is_on_disk_before_the_next_is_asked(journal_file, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(journal_file.read_bytes()), fsync(fd)))
    Journal(journal_file).add("d", 4)
    assert synced == [journal_file.read_bytes()]


def test_an_answer_that_did_not_reach_the_disk_is_not_claimed(journal_file, monkeypatch):
    journal = Journal(journal_file)
    monkeypatch.setattr(os, "fsync", failing(FAILURES[0]))
    with pytest.raises(OSError, match="No space"):
        journal.add("d", 4)
    assert "d" not in journal.answers


def test_the_last_answer_to_a_question_counts(journal_file):
    Journal(journal_file).add("a", "again")
    assert Journal(journal_file).answers == ANSWERS | {"a": "again"}


def test_a_last_line_torn_anywhere_is_dropped_and_cut_off(journal_file):
    lines = journal_file.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines[:-1])
    for length in range(1, len(lines[-1])):
        journal_file.write_bytes(whole + lines[-1][:length])
        assert Journal(journal_file).answers == {"a": ANSWERS["a"], "b": None}
        assert journal_file.read_bytes() == whole


def test_a_torn_journal_goes_on_where_it_stopped(journal_file):
    os.truncate(journal_file, journal_file.stat().st_size - 3)
    journal = Journal(journal_file)
    journal.add("c", "asked again")
    journal.add("d", 4)
    assert Journal(journal_file).answers == ANSWERS | {"c": "asked again", "d": 4}


@pytest.mark.parametrize(
    "garbage",
    [
        *[
            b"\x00\x00\x00\n",
            b"not json\n",
            b"[]\n",
            b"null\n",
            b'{"key": "x"}\n',
            b'{"answer": 1}\n',
            b"\xff\xfe\n",
            b"\n",
        ],
        pytest.param(b"[" * 100_000 + b"\n", id="deep"),
        pytest.param(b'{"key": [], "answer": 1}\n', id="list-key"),
    ],
)
def test_garbage_is_cut_out_and_what_stands_around_it_is_kept(journal_file, garbage):
    first, *others = journal_file.read_bytes().splitlines(keepends=True)
    journal_file.write_bytes(first + garbage + b"".join(others))
    assert Journal(journal_file).answers == ANSWERS
    assert journal_file.read_bytes() == first + b"".join(others)


def test_a_flipped_bit_in_a_journal_costs_its_line_and_no_other(journal_file):
    whole = journal_file.read_bytes()
    lengths = [len(line) for line in whole.splitlines(keepends=True)]
    for place in range(len(whole)):
        journal_file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = Journal(journal_file).answers
        assert found.items() <= ANSWERS.items()
        ends = place in (sum(lengths[:1]) - 1, sum(lengths[:2]) - 1)  # a line end: two lines become one
        assert len(found) == len(ANSWERS) - (2 if ends else 1)


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"a": {"b": [1, "é\u2028"]}, "z": []}])
@pytest.mark.parametrize("indent", [1, None])
def test_a_sealed_file_is_read_as_it_was_given_and_refused_with_any_bit_flipped(file, content, indent):
    write_json(file, content, indent)
    assert read_json(file) == content
    whole = file.read_bytes()
    body = whole.rindex(b'"seal"')
    for place in range(body):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"was changed since it was written|is not valid JSON"):
            read_json(file)


def test_a_file_without_a_seal_is_an_older_one_and_is_read(file):
    write_text(file, '{"a": 1}')
    assert read_json(file) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1e400}', "too large a number"),
        ('{"a": -1E0400}', "too large a number"),
        ('{"a": ' + "9" * 301 + "}", "a number of 301 digits"),
        ('{"a": "\\ud800"}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": Infinity}', "Infinity is no number"),
    ],
)
def test_json_that_no_other_file_could_hold_is_refused(file, text, words):
    write_text(file, text)
    with pytest.raises(UserError, match=words) as caught:
        read_json(file)
    assert "\n" not in str(caught.value)


def test_a_long_number_in_a_text_is_a_text(file):
    write_text(file, json.dumps({"a": "1e999 " + "7" * 400}))
    assert read_json(file)["a"].startswith("1e999 777")


@pytest.mark.parametrize(
    "read", [read_json, digest, Journal, lambda p: load_tensor(p, (4,)), read_vector_file]
)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe; it must be a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "is a device; it must be a regular file"),
        (os.mkdir, "is a folder; it must be a regular file"),
        (lambda p: p.symlink_to("nowhere"), "is a link to nothing"),
        (lambda p: p.symlink_to(p.name), "is a link to nothing"),
    ],
    ids=["pipe", "device", "folder", "dangling", "circle"],
)
def test_what_is_no_file_is_one_line_and_nothing_is_waited_for(tmp_path, read, make, words):
    make(tmp_path / "x.json")
    with pytest.raises(UserError, match=words):
        read(tmp_path / "x.json")


def test_a_file_too_large_to_be_ours_is_not_read(file, monkeypatch):
    write_text(file, " " * 3_000_000 + "{}")
    assert read_bytes(file, 3_000_002)
    for read in (read_bytes, digest):
        with pytest.raises(UserError, match="holds 2 MB; at most 1 are read"):
            read(file, 1 << 20)


def test_a_file_that_may_not_be_read_is_said_to_be_so(file, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write_json(file, {})
    monkeypatch.setattr(reading.os, "open", refuse)  # root, as whom tests may run, may read everything
    with pytest.raises(UserError, match=r"^cannot read .*: Permission denied$"):
        read_json(file)


def test_a_journal_line_is_json_that_people_can_read(journal_file):
    assert "你好" in journal_file.read_text(encoding="utf-8")
    assert [json.loads(line)["key"] for line in journal_file.read_bytes().splitlines()] == list(ANSWERS)


def test_keys_are_those_of_earlier_versions():
    # another value would ask every journal's questions again
    assert key_of("a", 1) == "2657442bb4a48d62f780ea60"
    assert key_of({"prompt": "你好 — “é”"}, [0.5, None, True]) == "131e0e35c9456157748080ff"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((1,), ("1",)),
        ((0.0,), (0.1,)),
        ((None,), ("",)),
        (("a", "b"), ("b", "a")),
        (([1, 2],), (1, 2)),
        (("é",), ("e",)),
        ((), ([],)),
    ],
)
def test_different_questions_have_different_keys(one, other):
    assert key_of(*one) != key_of(*other)


def test_equal_questions_have_equal_keys():
    assert key_of({"messages": [{"role": "user"}]}, (1, 2), "你好") == key_of(
        {"messages": [{"role": "user"}]}, [1, 2], "你好"
    )


def test_a_vector_is_read_without_torch_as_torch_reads_it(tensor_file):
    assert torch.equal(
        torch.from_numpy(read_vector_file(tensor_file, 4).copy()), load_tensor(tensor_file, (4,))
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.write_bytes(b"no archive"),
        lambda f: f.unlink(),
        lambda f: save_tensor(f, torch.arange(5.0)),
    ],
)
def test_what_is_no_such_vector_is_named(tensor_file, damage):
    damage(tensor_file)
    with pytest.raises(UserError, match=r"vector\.pt"):
        read_vector_file(tensor_file, 4)


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([1.0, float("nan")]), torch.tensor([1.0]).double(), torch.tensor([1, 2, 3, 4]).half()],
)
def test_a_vector_of_other_numbers_is_refused(tmp_path, tensor):
    save_tensor(tmp_path / "v.pt", tensor)
    with pytest.raises(UserError, match=r"finite float32 vector of 2 numbers|expected .* float32"):
        read_vector_file(tmp_path / "v.pt", 2)


def test_a_full_disk_is_told_as_one_while_a_tensor_is_written(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def full(path):
        yield Full()

    monkeypatch.setattr(tensors, "replacing", full)
    with pytest.raises(OSError, match="No space left") as caught:  # torch itself raises a RuntimeError
        save_tensor(tmp_path / "v.pt", torch.ones(5000))
    assert caught.value.errno == errno.ENOSPC
