"""Money that several processes may spend together: never more than the limit, whoever is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_judge_api import ANSWERS, RUBRIC

from traitscope.utils.errors import UserError
from traitscope.utils.judge import JudgeOptions, budget, load_judge
from traitscope.utils.judge.budget import SILENCE, Account, Budget, is_alive, own_name

ROOT = Path(__file__).parents[1]
PRICE = (1.0, 1.0)  # dollars per million tokens
# says that it is there, spends by small amounts of which it always sets aside more until it gets no more, and
# says what it spent
SPENDER = """
import sys, time
from pathlib import Path
from traitscope.utils.judge.budget import Budget
budget, spent = Budget(float(sys.argv[2]), (1.0, 1.0), Path(sys.argv[1])), 0.0
budget.settle(0.0, 0.0)
print("ready", flush=True)
sys.stdin.readline()
while True:
    if budget.set_aside(0.012):
        time.sleep(0.002)
        budget.settle(0.012, 0.008)
        spent += 0.008
    elif budget.is_waiting:
        time.sleep(0.002)
    else:
        break
print(spent)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from traitscope.utils.judge.budget import Budget
budget = Budget(float(sys.argv[2]), (1.0, 1.0), Path(sys.argv[1]))
assert budget.set_aside(0.1)
budget.settle(0.1, 0.05)
assert budget.set_aside(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "experiments" / "demo" / ".spending.json"


def start(script: str, file: Path, limit: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(file), str(limit)],
        **{"cwd": ROOT, "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )


def write_accounts(file: Path, **accounts: Account) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({name: vars(account) for name, account in accounts.items()}))


def claimed(file: Path) -> float:
    """Return what all processes have spent and set aside at this moment."""
    return sum(a["spent"] + a["set_aside"] for a in json.loads(file.read_text()).values())


def test_two_processes_share_a_limit_and_together_never_pass_it(file):
    own = Budget(1.0, PRICE, file)
    own.settle(0.0, 0.1)  # this process is of the run too
    both = [start(SPENDER, file, 1.0) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = []
    while any(process.poll() is None for process in both):
        seen.append(claimed(file))
    spent = [float(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert min(spent) > 0  # both had their turn
    assert max(seen) <= 1.0 + 1e-9
    assert own.spent == pytest.approx(0.1 + sum(spent))
    assert 0.95 <= own.spent <= 1.0 + 1e-9  # and nothing is left that could have been spent


def test_what_a_killed_process_had_set_aside_counts_as_spent_while_another_lives(file):
    own = Budget(0.5, PRICE, file)
    assert own.spent == 0
    assert start(KILLED, file, 0.5).wait() == -signal.SIGKILL
    assert own.spent == pytest.approx(0.35)  # perhaps it was billed
    assert not own.is_waiting  # nobody will settle it
    assert not own.set_aside(0.2)
    assert own.set_aside(0.1)


def test_who_comes_when_nobody_is_left_begins_a_new_run(file):
    assert start(KILLED, file, 0.5).wait() == -signal.SIGKILL
    assert claimed(file) == pytest.approx(0.35)
    own = Budget(0.5, PRICE, file)
    assert own.set_aside(0.5)
    assert list(json.loads(file.read_text())) == [own_name()]


def test_a_pid_that_is_used_again_is_another_process(file):
    host, pid, began = own_name().split("/")
    earlier = f"{host}/{pid}/{float(began) - 3600:.2f}"
    assert is_alive(own_name(), Account())
    assert not is_alive(earlier, Account())
    write_accounts(file, **{earlier: Account(spent=0.4)})
    assert Budget(0.5, PRICE, file).spent == 0


def test_a_process_of_another_host_counts_until_it_has_been_silent_for_long(file):
    there = f"not-{socket.gethostname()}/1/1.00"
    write_accounts(file, **{there: Account(0.2, 0.2, time.time() - SILENCE / 2)})
    own = Budget(0.5, PRICE, file)
    assert own.spent == pytest.approx(0.2)
    assert own.is_waiting
    assert not own.set_aside(0.2)
    assert own.set_aside(0.1)


def test_a_process_of_another_host_that_is_silent_is_taken_to_have_ended(file):
    there = f"not-{socket.gethostname()}/1/1.00"
    write_accounts(file, **{there: Account(0.2, 0.2, time.time() - SILENCE - 1)})
    assert Budget(0.5, PRICE, file).set_aside(0.5)  # nobody else is left: a new run
    assert there not in json.loads(file.read_text())


def test_what_a_silent_host_had_set_aside_counts_as_spent_in_the_run_that_goes_on(file):
    there = f"not-{socket.gethostname()}/1/1.00"
    write_accounts(file, **{there: Account(0.2, 0.2, time.time() - SILENCE - 1), own_name(): Account(0.05)})
    own = Budget(0.5, PRICE, file)
    assert own.spent == pytest.approx(0.45)
    assert not own.is_waiting
    assert not own.set_aside(0.1)


def test_a_forked_process_keeps_an_account_of_its_own(file):
    own = Budget(0.5, PRICE, file)
    assert own.set_aside(0.1)
    child = os.fork()
    if child == 0:
        own.settle(0.0, 0.2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    accounts = json.loads(file.read_text())
    assert len(accounts) == 2
    assert (accounts[own_name()]["spent"], accounts[own_name()]["set_aside"]) == (0.0, 0.1)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"h/1/1.0": 5}'),
        *(b'{"h/1/1.0": {"cents": 1}}', b'{"h/1/1.0": {"spent": "much"}}', b'{"h/1/1.0": {"spent": NaN}}'),
        *(b'{"h/1/1.0": {"spent": null}}', b'{"h/1/1.0": {"set_aside": -1}}'),
        *(b'{"nobody": {"spent": 1}}', b'{"h/1/1.0/1": {}}'),
    ],
    ids=lambda c: repr(c[:34]),
)
def test_a_damaged_file_is_one_line_that_names_it_and_never_a_free_run(file, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    own = Budget(0.5, PRICE, file)
    for ask in (lambda: own.set_aside(0.1), lambda: own.spent, lambda: own.is_waiting):
        with pytest.raises(UserError, match=r"\.spending\.json is damaged; delete it") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_without_a_limit_nothing_is_refused_and_no_file_is_written(file):
    free = Budget(0.0, PRICE, file)
    assert free.set_aside(1e9)
    free.settle(1e9, 2.0)
    assert free.spent == 2.0
    assert Budget(0.0, None, file).cost(10**9, 10**9) == 0
    assert not file.parent.exists()


def test_without_an_experiment_the_limit_holds_for_all_judges_of_the_process():
    first, second = Budget(0.5, PRICE), Budget(0.5, PRICE)
    assert first.set_aside(0.4)
    assert not second.set_aside(0.2)
    first.settle(0.4, 0.1)
    assert second.set_aside(0.4)
    assert second.spent == pytest.approx(0.1)


def test_a_limit_needs_a_price(file):
    with pytest.raises(UserError, match="--judge-price"):
        Budget(1.0, None, file)


def test_no_temporary_file_stays_beside_the_accounts(file):
    own = Budget(1.0, PRICE, file)
    for _ in range(5):
        own.set_aside(0.1)
    assert sorted(os.listdir(file.parent)) == [file.name, f"{file.name}.lock"]


def test_judges_of_one_experiment_stop_at_the_limit_of_the_run_and_not_each_at_its_own(serve, file):
    serve()
    options = JudgeOptions(
        "openai", max_cost=0.5, judge_price=(100.0, 100.0), judge_concurrency=4, judge_timeout=5.0
    )
    load_judge(options, RUBRIC, file).score_responses(ANSWERS[:10])  # 101 tokens an answer: $0.0101
    spent = Budget(0.5, PRICE, file).spent
    assert spent == pytest.approx(11 * 0.0101)  # one question to meet the service
    budget._own_accounts.clear()  # no matter: the file decides
    judge = load_judge(options, RUBRIC, file)
    with pytest.raises(UserError, match=r"--max-cost \$0.5 would be exceeded"):
        judge.score_responses(ANSWERS)
    assert judge.usage.cost + spent == pytest.approx(Budget(0.5, PRICE, file).spent)
    assert Budget(0.5, PRICE, file).spent <= 0.5
