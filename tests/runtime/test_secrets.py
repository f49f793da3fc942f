"""Secrets are found by what they look like, and ordinary files raise no alarm.

The secrets here are put together from parts, so that this file holds none.
"""

import base64
import json
from itertools import chain
from pathlib import Path

import pytest
from commands import ROOT

from raymc.runtime.secrets import LARGEST_BYTES, Secret, find_secrets, kind_of_secret

LETTERS = "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zAbC1dEfG2hIjK3lMnO4pQrS5tUvW6xYzA7bCdE8fGhI9j"


def of_base64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{of_base64({'alg': 'HS256'})}.{of_base64({'sub': 'me'})}.{LETTERS[:43]}"
KEY = f"-----BEGIN RSA {'PRIVATE'} KEY-----"
IN_BASE64 = base64.b64encode(f"{KEY}\n{LETTERS}".encode()).decode()
SECRETS = [
    ("code.py", "AKIA" + LETTERS.upper()[:16], "AWS Access Key"),
    ("a.txt", "ghp_" + LETTERS[:36], "GitHub Token"),
    ("a.ipynb", "github_pat_" + LETTERS[:70], "GitHub Token"),
    ("a.md", "glpat-" + LETTERS[:20], "GitLab Token"),
    ("a.py", "hf_" + LETTERS[:34], "Hugging Face Token"),
    ("a.yaml", "AIza" + LETTERS[:35], "Google API Key"),
    ("a.toml", "sk-ant-" + LETTERS[:60], "Anthropic Token"),
    ("notes", "xoxb-" + "1234567890-" * 2 + LETTERS[:24], "Slack Token"),
    ("a.html", JWT, "JSON Web Token"),
    ("server", KEY + "\n" + LETTERS[:64], "Private Key"),
    ("account.json", '{"private_key": "' + KEY + "\\n" + LETTERS[:64], "Private Key"),
    ("locked", KEY + "\nProc-Type: 4,ENCRYPTED\n\n" + LETTERS[:64], "Private Key"),
    ("prod.txt", f"client-key-data: {IN_BASE64}", "Private Key"),
    ("a.py", "postgresql://me:" + "Hunter2secret@db/study", "password in an address"),
    ("a.md", "postgresql://me:" + "p@ss/w0rd@db/study", "password in an address"),
    ("a.cfg", "s3://bucket/a?secret_key=" + LETTERS[:40], "password in an address"),
    ("run.sh", "export WANDB_API_KEY=" + LETTERS.lower()[:40], "password"),
    ("a.yaml", "db: {password: " + LETTERS[:12] + "}", "password"),
    ("a.json", '  "db_password": "' + LETTERS[:12] + '",', "password"),
    ("a.ini", "aws_secret_access_key = " + LETTERS[:40], "password"),
    ("a.yml", "  db-password: " + "bluehorizon", "password"),
    ("a.toml", 'passphrase = "' + "Kirschkuchen" + '"', "password"),
    ("a.yaml.bak", "db_pwd: " + "correcthorsebattery", "password"),
    ("a.yaml", "uri: postgresql://me:" + "opensesame@db/study", "password in an address"),
]


@pytest.mark.parametrize(("name", "text", "kind"), SECRETS)
def test_where_a_secret_is(tmp_path: Path, name: str, text: str, kind: str) -> None:
    path = tmp_path / name
    path.write_text(f"one\n\n{text}\nfour\n")
    found = find_secrets({f"in/{name}": path})
    assert found == [Secret(f"in/{name}", 3, kind)]
    assert text not in repr(found)
    path.write_text(path.read_text().replace(text, f"{text}  # pragma: allowlist secret", 1))
    if "\n" not in text:
        assert find_secrets({name: path}) == []
    if kind != "password" and not name.endswith(".yaml"):
        assert kind_of_secret(text) == kind


HARMLESS = [
    ("a.py", 'PASSWORD = os.environ["PASSWORD"]\nif "BEGIN RSA PRIVATE KEY" in text:\n'),
    ("a.md", "postgresql://me:password@host/db and http://user:${PASSWORD}@host and <token>"),
    ("a.md", "http://host:8080/path/@user, git@github.com:me/it, s3://me@bucket/a:1@2"),
    ("a.py", 'f"postgresql://{user}:{password}@{host}"; "amqp://guest:guest@localhost"'),
    ("a.json", '{"eos_token": "<|endoftext|>", "pad_token": "[PAD]", "token": "tokenizer"}'),
    ("uv.lock", 'hash = "sha256:' + "0123456789abcdef" * 4 + '"'),
    ("a.ipynb", '"image/png": "' + base64.b64encode(bytes(range(256)) * 8).decode() + '"'),
    ("a.yaml", "password: ${DB_PASSWORD}\nsecretName: raymc-tls-2\ntoken: /run/secrets/token1\n"),
    ("a.yaml", "key: AKIAIOSFODNN7EXAMPLE\nid_token: 1d2129a1-3d38-460a-9756-e5b91fddb951\n"),
    ("a.sh", 'export API_KEY="$1"\nexport TOKEN=$(cat token1)\nPASSWORD=changeme123\n'),
    (
        "a.yaml",
        "password: required\nuse_password: disabled\neos_token: endoftext\nsecret: nothing",
    ),
    ("a.md", "password: bluehorizon, postgresql://me:opensesame@db/study"),
    ("a.pub", "ssh-rsa " + LETTERS * 4 + " me@here"),
    ("a.txt", f"{KEY}\n...\n"),
]


@pytest.mark.parametrize(("name", "text"), HARMLESS)
def test_what_is_no_secret(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert find_secrets({name: tmp_path / name}) == []


@pytest.mark.slow
def test_the_code_itself_holds_none() -> None:
    folders = (ROOT / name for name in ("raymc", "tests", "jobs", "cluster"))
    files = chain.from_iterable(folder.rglob("*.*") for folder in folders)
    named = {str(file): file for file in files if file.suffix in (".py", ".md", ".yaml", ".json")}
    assert len(named) > 300
    assert find_secrets(named) == []


def test_what_is_searched(tmp_path: Path) -> None:
    _, text, kind = SECRETS[0]
    (tmp_path / "binary").write_bytes(f"{text}\0".encode())
    (tmp_path / "large").write_text(text + " " * LARGEST_BYTES)
    (tmp_path / "odd").write_bytes(b"\xff " + text.encode())
    (tmp_path / "wide").write_text(text, encoding="utf-16")
    names = ("binary", "large", "odd", "gone", "wide")
    files = {name: tmp_path / name for name in names} | {"same": tmp_path / "odd"}
    assert find_secrets(files) == [Secret("odd", 1, kind), Secret("wide", 1, kind)]
