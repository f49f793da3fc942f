"""Passwords in addresses: taken apart by a parser, used to connect, and found nowhere else."""

import pickle
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from drivers import RAYMC, running, write_config
from sockets import free_port

from cluster.chaos.services import PostgresServer
from raymc.addresses import (
    has_password,
    keep_password,
    redacted,
    resolved,
    with_password,
    without_password,
)
from raymc.cli.main import main
from raymc.config import Config, override
from raymc.errors import ConfigError, ResourceError
from raymc.tracking.writer import SPOOL_FILE

PLANTED = "Pl4nt3d@w/rd"  # typed in an address as it is, and percent-encoded in a query
ENCODED = "Pl4nt3d%40w%2Frd"
TELLING = b"Pl4nt3d"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:p@ss@h/db", "postgresql://me@h/db"),
        ("postgresql+psycopg2://me:pass@h:5/db?x=1", "postgresql+psycopg2://me@h:5/db?x=1"),
        ("postgresql://me:p/a@s@h/db", "postgresql://me@h/db"),
        ("postgresql://me:p@s/a@h/db", "postgresql://h/db"),
        ("postgresql://me:p?ss@h/db", "postgresql://me@h/db"),
        ("postgresql://h/db?password=pass&sslmode=require", "postgresql://h/db?sslmode=require"),
        ("postgresql://h/db?sslpassword=pass", "postgresql://h/db"),
        ("postgresql://me:pass@a:1,b:2/db?password=pass", "postgresql://a:1,b:2/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dpass", "mssql+pyodbc:///"),
        ("http://me:p@ss@h:80/x?Token=pass&b=c#access_token=pass", "http://me@h:80/x?b=c"),
        ("http://me:p/ss@h/x", "http://h/x"),
        ("HTTPS://:pass@h", "https://h"),
        ("s3://key:pa/ss@bucket/a", "s3://bucket/a"),
        ("s3://b/a?X-Amz-Signature=pass&x=1", "s3://b/a?x=1"),
    ],
)
def test_an_address_without_its_password(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert without_password(shown) == shown
    assert has_password(address)
    assert keep_password(address) == shown
    assert with_password(shown) == address


@pytest.mark.parametrize(
    "address",
    [
        *("sqlite:////tmp/a@b:c.db", "sqlite:///x.db?timeout=5", "http://h:80/a@b", "s3://b/a:b"),
        *("http://me@h/", "postgresql://me@h/db", "file:///a:b@c", "runs/a:b@c", "data", ""),
        *("postgresql://me:${WORD}@h/db", "http://h/?token=${WORD}", "http://h/?keys=1&monkey=2"),
    ],
)
def test_an_address_that_has_none_stays_as_it_is(address: str) -> None:
    assert without_password(address) == address
    assert keep_password(address) == address


def test_a_variable_is_replaced_where_the_address_is_used() -> None:
    environment = {"WORD": "p@ss/word", "WHOLE": "http://me:other@h"}
    address = resolved("postgresql://me:${WORD}@h/db", environment)
    assert address == "postgresql://me@h/db"
    whole = "postgresql://me:p%40ss%2Fword@h/db"  # pragma: allowlist secret
    assert with_password(address) == whole
    assert with_password(resolved("${WHOLE}", environment)) == "http://me:other@h"
    assert redacted("can't log in as p@ss/word at http://me:other@h/api") == (
        "can't log in as *** at http://me@h/api"
    )
    with pytest.raises(ConfigError, match="the variable MISSING, which your environment"):
        resolved("postgresql://me:${MISSING}@h/db", environment)


@pytest.mark.parametrize(
    ("password", "text", "shown"),
    [
        ("word", "overflow-wrap: break-word, a word, words", None),
        ("true", "resume = true", None),
        ("true", "can't log in to me:true@h with password=true", "me:***@h with password=***"),
        ("0125", "0.0125, 10125 rows, trial-0125", None),
        ("hunter2", "'hunter2' was refused; hunter22", "'***' was refused; hunter22"),
        ("correct-horse", "no correct-horse for me", "no *** for me"),
    ],
)
def test_a_text_that_happens_to_hold_the_letters_of_a_password_stays(
    password: str, text: str, shown: str | None
) -> None:
    keep_password(f"postgresql://me:{password}@h/a")
    assert redacted(text).endswith(shown or text)


def test_no_refusal_shows_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    closed = f"127.0.0.1:{free_port()}"
    server, database = f"http://me:{PLANTED}@{closed}", f"postgresql://me:{PLANTED}@{closed}/a"
    query = f"postgresql://{closed}/a?password={ENCODED}"
    file = tmp_path / "c.yaml"
    file.write_text(f"tracking: {{uri: '{server}', experiment: [}}\n")
    refused = [
        *(["runs", f"tracking.uri={uri}"] for uri in (server, database, query)),
        *(["runs", given] for given in (server, f"tracking.uri=file://me:{PLANTED}@h/x")),
        ["ui", f"tracking.uri={database}"],
        ["train", str(file)],
        ["train", f"tracking.ury={server}"],
        ["train", f"tracking.uri=[{server}]"],
        ["train", f"tracking.uri={server}: ["],
        ["train", f"data.path=s3://me:{PLANTED}@bucket/a"],
        ["evaluate", str(tmp_path), f"s3://me:{PLANTED}@bucket/a"],
        ["data", "info", f"nowhere://me:{PLANTED}@bucket/a?secret={ENCODED}"],
        ["submit", "c.yaml", "--set", f"tracking.uri={server}"],
        ["jobs", "--address", server],
    ]
    for arguments in refused:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2, (arguments, done.output, done.exception)
        assert TELLING.decode() not in done.output, arguments
        assert done.output.count("\n") <= 1 or "Usage" in done.output, arguments


def files_with(text: bytes, *folders: Path) -> list[str]:
    """Return the files that hold a text, or have it in their names."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if text in file.read_bytes() or text in bytes(file)]


def shown_by_others(driver: int) -> bytes:
    """The commands of all processes, as `ps` shows them, but the one in which an address was typed.

    A process that has just been forked from it has its command, too, until it is another program.
    """
    commands = dict[str, bytes]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            commands[folder.name] = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
    typed = commands.get(str(driver))
    return b"\n".join(command for command in commands.values() if command != typed)


@pytest.mark.slow
def test_a_password_is_found_nowhere(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sweep, in a run whose MLflow goes away and comes back, and in what is made of both."""
    pytest.importorskip("psycopg2")
    settings = {"run.folder": str(tmp_path / "runs"), "train.epochs": 1, "search.trials": 1}
    file = write_config(override(tiny_config, settings), tmp_path / "c.yaml")
    with TemporaryDirectory(prefix="raymc-") as folder:
        Path(folder).chmod(0o711)
        ray = Path(folder, "ray")  # whose sockets need a short path
        ray.mkdir()
        server = PostgresServer(Path(folder, "postgres"), ("study", "mlflow"))
        try:
            server.start()
        except ResourceError as error:
            pytest.skip(str(error))
        study = server.address("study").replace("raymc@", f"raymc:{ENCODED}@")
        uri = f"{server.address('mlflow')}?password={ENCODED}"
        environment = {"STUDY": study, "TRACKING": uri, "RAY_TMPDIR": str(ray)}
        log, tracked = tmp_path / "printed", ["tracking.uri=${TRACKING}"]

        def run(*words: str | Path, until: Callable[[], bool] = lambda: False) -> int:
            """Run a command to its end, or to a moment; nothing that it does shows the password."""
            with running(RAYMC, *words, log=log, environment=environment) as process:
                while process.poll() is None and not until():
                    assert TELLING not in shown_by_others(process.pid)
                    time.sleep(0.2)
                for _ in range(2):  # the second does not wait for MLflow
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
                        time.sleep(0.5)
                code = process.wait()
            assert TELLING not in log.read_bytes(), words
            assert files_with(TELLING, tmp_path, ray) == [], words
            return code

        def recorded() -> bytes:
            """All that MLflow's database has."""
            where = ["-h", "127.0.0.1", "-p", server.port, "-U", "raymc"]
            return subprocess.check_output(["pg_dump", *where, "mlflow"])

        try:
            typed = ["search.storage=${STUDY}", f"tracking.uri={uri}", "run.name=sweep"]
            assert run("tune", file, *typed) == 0, log.read_text()
            one = tmp_path / "runs/one"
            train = ["train", file, *tracked, "run.name=one", "train.epochs=100000"]
            spool, server_is_away = one / SPOOL_FILE, list[bool]()

            def waits() -> bool:
                """Take MLflow away once the run is recorded, until an epoch's record waits."""
                if not server_is_away and (one / "attempts.json").exists():
                    server.kill()
                    server_is_away.append(True)
                return bool(server_is_away) and b"log_epoch" in spool.read_bytes()

            assert run(*train, until=waits) == 143, log.read_text()
            assert b"log_epoch" in spool.read_bytes()
            server.start()
            monkeypatch.setenv("TRACKING", uri)
            sweep, out = str(tmp_path / "runs/sweep"), str(tmp_path / "given")
            for words in (["replay", str(one), *tracked], ["export", sweep, "--out", out]):
                done = CliRunner().invoke(main, words, catch_exceptions=False)
                assert (done.exit_code, TELLING.decode() in done.output) == (0, False), done.output
            assert not spool.exists()
            assert files_with(TELLING, tmp_path) == []
            dumped = recorded()
            assert b"raymc.key" in dumped
            assert TELLING not in dumped
            ui = ["ui", *tracked, "--port", str(free_port())]
            assert run(*ui, until=lambda: b"Sweeps and runs" in log.read_bytes()) == 143
        finally:
            server.kill()


def test_settings_are_sent_to_workers_without_passwords(tiny_config: Config) -> None:
    config = override(tiny_config, {"search.storage": f"postgresql://me:{PLANTED}@h/a"})
    assert TELLING not in pickle.dumps(config) + repr(config).encode()
