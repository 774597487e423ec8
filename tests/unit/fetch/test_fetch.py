"""Fetching a Bulk Data export from a server over HTTP: protocol, sign-in, breaks, and what is never written."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from jwcrypto import jwk

import ehr_tl
from ehr_tl.errors import ExportError, FetchError
from ehr_tl.fetch import exporter
from ehr_tl.fhir.export import open_export

CLIENT = "ehr-tl-test"


def lines(kind: str, *ids: str, **more) -> bytes:
    return b"".join(json.dumps({"resourceType": kind, "id": each, **more}).encode() + b"\n" for each in ids)


@pytest.fixture
def get(server, key, tmp_path):
    """Fetches from the server, as the registered client."""
    server.files = server.files or {
        "Patient.ndjson": lines("Patient", "a", "b", birthDate="1950-01-01"),
        "Observation.1.ndjson": lines("Observation", *map(str, range(50))),
        "Observation.2.ndjson": lines("Observation", "51"),
    }

    def fetch(out: Path = tmp_path / "out", **settings) -> ehr_tl.fetch:
        return ehr_tl.fetch(server.url, out, **{"client_id": CLIENT, "key": key} | settings)

    return fetch


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that were to be waited, more than none; nobody waits."""
    asked, sleep = [], asyncio.sleep

    async def note(seconds: float, *rest) -> None:
        asked.extend([seconds] if seconds else [])
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return asked


def told(error: pytest.ExceptionInfo) -> str:
    return str(error.value)


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_an_export_arrives_as_it_was_served(server, get, tmp_path):
    server.pending = 3
    fetched = get()
    out = tmp_path / "out"
    assert fetched.resources == {"Observation": 51, "Patient": 2} and fetched.files == 3
    assert (out / "Patient.001.ndjson").read_bytes() == server.files["Patient.ndjson"]
    assert (out / "Observation.001.ndjson").read_bytes() == server.files["Observation.1.ndjson"]
    assert (out / "Observation.002.ndjson").read_bytes() == server.files["Observation.2.ndjson"]
    assert server.paths().count("/status/1") == 4
    assert server.paths("DELETE") == ["/status/1"]
    export = open_export(out)
    assert f"{export.transaction_time:%Y-%m-%dT%H:%M:%SZ}" == "2026-02-03T04:05:06Z"
    assert {file.name for file in export.files} == {
        "Patient.001.ndjson",
        "Observation.001.ndjson",
        "Observation.002.ndjson",
    }


def test_the_servers_wait_is_kept(server, get, waits):
    server.pending, server.retry_after = 2, "70"
    get()
    assert waits == [70, 70]


@pytest.mark.parametrize(
    ("settings", "path", "query"),
    [
        ({}, "/fhir/$export", {}),
        ({"patient": True}, "/fhir/Patient/$export", {}),
        (
            {"group": "7", "types": ["Patient", "Condition"], "since": "2026-01-01T08:00:00+02:00"},
            "/fhir/Group/7/$export",
            {"_type": ["Condition,Patient"], "_since": ["2026-01-01T08:00:00+02:00"]},
        ),
        ({"since": "2026-01-01"}, "/fhir/$export", {"_since": ["2026-01-01T00:00:00Z"]}),
    ],
)
def test_level_types_and_time_are_asked_for(server, get, settings, path, query):
    get(**settings)
    [asked] = [each for each in server.asked if each.path.endswith("$export")]
    assert (asked.path, asked.query) == (path, query)
    assert asked.headers["Prefer"] == "respond-async" and asked.headers["Accept"] == "application/fhir+json"
    types = settings.get("types", ["*"])
    assert set(server.scopes[0].split()) == {f"system/{each}.read" for each in types}


def test_a_manifest_in_pages(server, get):
    server.pages = 2
    assert get().resources == {"Observation": 51, "Patient": 2}


def test_an_empty_export_is_one(server, get):
    server.files = {}
    assert get(since="2026-01-01").resources == {}


def test_deleted_resources_are_told_and_not_read(server, get, tmp_path):
    entry = {"request": {"method": "DELETE", "url": "Patient/x"}}
    server.files["deleted/Bundle.ndjson"] = lines("Bundle", "d", "e", type="transaction", entry=[entry, entry])
    fetched = get(since="2026-01-01")
    assert fetched.deleted == 4 and "Bundle" not in fetched.resources
    export = open_export(tmp_path / "out")
    assert "deleted/Bundle.001.ndjson" in export.ignored
    assert {read.type for read in export.read()} == {"Patient", "Observation"}


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_token_that_runs_out_is_renewed(server, get):
    server.pending, server.uses = 4, 4
    assert get().files == 3
    assert len(server.scopes) == 3  # while its state was asked for, and while files came


def test_files_whose_token_runs_out_at_once_share_the_next(server, get):
    server.uses = 2  # for the kick-off and the state
    server.files = {f"Patient.{n}.ndjson": lines("Patient", str(n)) for n in range(4)}
    usual, meet = server.answer, threading.Barrier(4)

    def together(asked):
        if asked.path.startswith("/files/") and server.uses == 2:
            meet.wait(20)
            server.uses = 100
        return usual(asked)

    server.answer = together
    assert get().files == 4
    assert len(server.scopes) == 2


def test_without_discovery_the_token_endpoint_can_be_named(server, get):
    server.discoverable = False
    with pytest.raises(FetchError, match="--token-url"):
        get()
    assert get(token_url=f"{server.root}/token").files == 3


def test_a_plain_token(server, get):
    server.plain_token = "plain-secret"
    assert get(client_id=None, key=None, bearer_token="plain-secret").files == 3
    assert "/token" not in server.paths("POST")


def test_an_open_server(server, get):
    server.secure = False
    assert get(client_id=None, key=None).files == 3


def test_a_file_server_with_other_locks_is_shown_no_token(server, get):
    server.file_token = False
    assert get().files == 3


def test_a_key_that_is_not_registered(server, get, tmp_path):
    other = tmp_path / "other.jwk"
    other.write_text(jwk.JWK.generate(kty="EC", crv="P-384").export_private())
    with pytest.raises(FetchError, match="invalid_client") as error:
        get(key=other)
    assert "registered" in told(error) and server.secrets[0] not in told(error)


@pytest.mark.parametrize(
    "settings", [{"client_id": None, "key": None}, {"client_id": None, "key": None, "bearer_token": "x"}]
)
def test_without_the_right_token_it_says_what_to_check(get, settings):
    with pytest.raises(FetchError, match="token"):
        get(**settings)


def test_keys_in_all_forms(server, get, tmp_path):
    rsa = jwk.JWK.generate(kty="RSA", size=2048)
    named = jwk.JWK.generate(kty="EC", crv="P-384", kid="mine", use="sig")
    for made in (rsa, named):
        server.registered[made.get("kid") or made.thumbprint()] = jwk.JWK.from_json(made.export_public())
    halves = [named.export_public(as_dict=True), named.export_private(as_dict=True)]
    forms = {
        "rsa.pem": rsa.export_to_pem(private_key=True, password=None),
        "named.json": named.export_private().encode(),
        "set.jwks": json.dumps({"keys": halves}).encode(),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        assert get(tmp_path / f"{name}.out", key=tmp_path / name).files == 3


def test_the_documented_key_opens_the_door(server, get, tmp_path, monkeypatch, repository):
    [script] = re.findall(r"```python\n(# make_key.py.*?)```", (repository / "docs/fetch.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    keys = json.loads((tmp_path / "public.jwks").read_text())["keys"]
    assert [sorted(each) for each in keys] == [["alg", "crv", "kid", "kty", "use", "x", "y"]]
    server.registered = {each["kid"]: jwk.JWK(**each) for each in keys}
    assert get(key=tmp_path / "key.jwk").files == 3


@pytest.mark.parametrize(
    "content",
    ["", "{", "{}", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", "PUBLIC", "OCT", "LOCKED"],
)
def test_what_is_no_private_key(server, get, tmp_path, content):
    made = jwk.JWK.generate(kty="oct", size=256)
    texts = {
        "PUBLIC": server.private.export_public(),
        "OCT": made.export(),
        "LOCKED": server.private.export_to_pem(private_key=True, password=b"x").decode(),
    }
    path = tmp_path / "bad"
    path.write_text(texts.get(content, content))
    with pytest.raises(FetchError, match="no private key that can sign") as error:
        get(key=path)
    assert "c2Vj" not in told(error) and server.asked == []


# --- what breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("breaks", ["short", "reset", "silent"])
def test_a_file_that_breaks_off_is_fetched_again(server, get, tmp_path, answer, breaks, counted, caplog):
    server.counted = counted
    path, body = "/files/Observation.1.ndjson", server.files["Observation.1.ndjson"]
    server.out_of_turn[path] = [answer(body=body, breaks=breaks)] * 2
    assert get().resources["Observation"] == 51
    assert (tmp_path / "out" / "Observation.001.ndjson").read_bytes() == body
    assert server.paths().count(path) == 3
    assert caplog.text.count("did not come whole") == 2


def test_a_file_that_ends_between_lines_is_told_by_its_count(server, get, answer):
    path, body = "/files/Observation.1.ndjson", server.files["Observation.1.ndjson"]
    server.out_of_turn[path] = [answer(body=body[: body.index(b"\n") + 1])]
    assert get().resources["Observation"] == 51


def test_a_file_that_never_comes_whole(server, get, tmp_path, answer):
    path, body = "/files/Observation.1.ndjson", server.files["Observation.1.ndjson"]
    server.out_of_turn[path] = [answer(body=body, breaks="short")] * 5
    with pytest.raises(FetchError, match="did not come whole in 5 tries"):
        get()
    assert not list((tmp_path / "out").rglob("Observation.001*")) and not server.removed
    with pytest.raises(ExportError, match="not whole"):
        open_export(tmp_path / "out")
    assert get().resources["Observation"] == 51
    assert server.paths().count("/fhir/$export") == 1
    assert server.paths().count("/files/Patient.ndjson") == 1


def test_after_a_kill_it_goes_on(server, key, get, tmp_path):
    path = "/files/Observation.2.ndjson"
    server.pending = 1
    gate, first = threading.Event(), threading.Event()
    usual = server.answer

    def held(asked):  # the last file is held back until the client is dead
        if asked.path == path and not gate.is_set():
            first.set()
            gate.wait(20)
        return usual(asked)

    server.answer = held
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from ehr_tl.cli.main import main; main()", "fetch", server.url]
    command += ["--out", str(out), "--client-id", CLIENT, "--key", str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert first.wait(20)
        wait_for(lambda: (out / "Patient.001.ndjson").is_file() and (out / "Observation.001.ndjson").is_file())
        process.send_signal(signal.SIGKILL)
        process.wait()
    gate.set()
    with pytest.raises(ExportError, match="not whole"):
        open_export(out)
    assert get().resources == {"Observation": 51, "Patient": 2}
    assert server.paths().count("/fhir/$export") == 1
    assert [server.paths().count(f"/files/{each}.ndjson") for each in ("Patient", "Observation.1")] == [1, 1]
    assert not list(out.glob(".*partial"))


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_kept_file_that_was_damaged_is_fetched_again(server, get, tmp_path, answer):
    server.out_of_turn["/files/Observation.2.ndjson"] = [answer(403)]
    with pytest.raises(FetchError, match="403"):
        get()
    (tmp_path / "out" / "Patient.001.ndjson").write_bytes(b'{"resourceType":"Pat')
    assert get().resources["Patient"] == 2


def test_an_export_that_the_server_has_dropped(server, get, answer):
    server.out_of_turn["/files/Observation.2.ndjson"] = [answer(403)]
    with pytest.raises(FetchError):
        get()
    server.removed = True
    with pytest.raises(FetchError, match=r"404 .*No such export.* begin again"):
        get()


def test_too_many_requests(server, get, answer):
    busy = answer(429, headers={"Retry-After": "0"})
    server.out_of_turn["/fhir/$export"] = [busy]
    server.out_of_turn["/status/1"] = [busy]
    server.out_of_turn["/files/Patient.ndjson"] = [busy, busy]
    assert get().files == 3


# --- what a server says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "fix"),
    [
        ("/fhir/$export", 404, "base URL"),
        ("/fhir/$export", 403, "allow this client"),
        ("/fhir/$export", 400, "--type"),
        ("/status/1", 403, "allow this client"),
        ("/files/Patient.ndjson", 410, "begin again"),
    ],
)
def test_a_refusal_is_told_with_its_diagnostics(server, get, answer, outcome, path, status, fix):
    server.out_of_turn[path] = [answer(status, outcome("error", "processing", "Why it is so"))]
    with pytest.raises(FetchError, match=f"{status}.*error \\(processing\\): Why it is so") as error:
        get()
    assert fix in told(error) and "narrative" not in told(error)


def test_an_answer_that_is_no_outcome_is_not_shown(server, get, answer):
    server.out_of_turn["/fhir/$export"] = [answer(400, {"resourceType": "Patient", "name": "Canary"})]
    with pytest.raises(FetchError) as error:
        get()
    assert "Canary" not in told(error)


def test_errors_in_the_list_are_told_and_have_to_be_accepted(server, get, tmp_path, outcome):
    rows = [outcome("error", "exception", "Store 3 is offline")] * 2 + [outcome("information", "informational", "Hi")]
    server.files["error/OperationOutcome.ndjson"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    with pytest.raises(FetchError, match=r"error \(exception\): Store 3 is offline \(2 times\)"):
        get()
    with pytest.raises(ExportError, match="not whole"):
        open_export(tmp_path / "out")
    before = len(server.asked)
    assert before and server.removed
    fetched = get(accept_errors=True)
    assert len(server.asked) == before  # all was here already
    assert fetched.told == {"error (exception): Store 3 is offline": 2, "information (informational): Hi": 1}
    assert {read.type for read in open_export(tmp_path / "out").read()} == {"Patient", "Observation"}


def test_an_outcome_in_place_of_a_file(server, get, outcome):
    server.files["Patient.ndjson"] = json.dumps(outcome("fatal", "timeout", "Too late")).encode() + b"\n"
    with pytest.raises(FetchError, match=r"something else than Patient.*fatal \(timeout\): Too late"):
        get()


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", {"output": None}, {"output": ["x"]}, {"output": [{"type": "../../x", "url": "/y"}]}]
)
def test_what_is_no_manifest(server, get, tmp_path, answer, body):
    server.out_of_turn["/status/1"] = [answer(body=body)]
    with pytest.raises(FetchError, match="manifest"):
        get()
    assert {each.name for each in tmp_path.iterdir()} == {"key.jwk", "out"}


def test_lists_of_a_manifest_that_are_null_are_empty(server, get, answer):
    entry = {"type": "Patient", "url": f"{server.root}/files/Patient.ndjson"}
    nulls = {"error": None, "deleted": None, "link": None, "requiresAccessToken": None}
    server.out_of_turn["/status/1"] = [answer(body={"transactionTime": None, "output": [entry], **nulls})]
    assert get().resources == {"Patient": 2}


def test_an_outcome_in_place_of_the_manifest(server, get, answer, outcome):
    server.out_of_turn["/status/1"] = [answer(body=outcome("fatal", "timeout", "Too late"))]
    with pytest.raises(FetchError, match=r"manifest and says: fatal \(timeout\): Too late"):
        get()


@pytest.mark.parametrize("url", ["ftp://x/y", "http://[", "https://127.0.0.1:1/\x00", "/y", None])
def test_files_at_addresses_that_are_none(server, get, answer, url):
    server.out_of_turn["/status/1"] = [answer(body={"output": [{"type": "Patient", "url": url}]})]
    with pytest.raises(FetchError, match="without its resource type or URL"):
        get()


def test_after_a_refusal_no_other_file_is_asked_for(server, get, answer):
    server.files = {f"Patient.{n}.ndjson": lines("Patient", str(n)) for n in range(40)}
    server.out_of_turn["/files/Patient.0.ndjson"] = [answer(403)]
    with pytest.raises(FetchError, match="403"):
        get()
    assert sum(path.startswith("/files/") for path in server.paths()) < 20


def test_a_kick_off_without_a_place_to_ask(server, get, answer):
    server.out_of_turn["/fhir/$export"] = [answer(202)]
    with pytest.raises(FetchError, match="Content-Location"):
        get()


def test_another_version_of_fhir(server, get):
    server.version = "5.0.0"
    with pytest.raises(FetchError, match=r"FHIR 5\.0\.0.*R4"):
        get()
    assert "/fhir/$export" not in server.paths()


def test_a_server_out_of_reach_is_told_at_once(get, server, waits):
    server.close()
    with pytest.raises(FetchError, match="cannot be reached"):
        get()
    assert waits == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fhir.example",
        "ftp://fhir.example",
        "https://u:p@fhir.example/",
        "https://x/$export",
        "http://[",
        "https://x/r4?a=b",
    ],
)
def test_what_is_no_server(tmp_path, url):
    with pytest.raises(FetchError) as error:
        ehr_tl.fetch(url, tmp_path / "out")
    assert "u:p" not in told(error) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"group": "7", "patient": True},
        {"group": "../x"},
        {"types": ["patient?"]},
        {"since": "yesterday"},
        {"key": None},
        {"client_id": None},
        {"bearer_token": "x"},
        {"client_id": None, "key": None, "bearer_token": "two\nlines"},
        {"client_id": None, "key": None, "token_url": "https://x/token"},
    ],
)
def test_settings_that_cannot_be(server, get, settings):
    with pytest.raises(FetchError):
        get(**settings)
    assert server.asked == []


# --- the folder -------------------------------------------------------------------------------------------------------


def test_only_the_owner_can_read(get, tmp_path):
    before = os.umask(0)
    try:
        get()
    finally:
        os.umask(before)
    out = tmp_path / "out"
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.glob("*[a-z].0*.ndjson")} == {0o600}


def test_a_folder_with_something_else_or_a_whole_export_is_left_alone(server, get, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(FetchError, match="something else"):
        get(tmp_path / "other")
    get()
    with pytest.raises(FetchError, match="whole"):
        get()


def test_a_folder_that_was_begun_for_another_request(server, get, answer):
    server.out_of_turn["/files/Patient.ndjson"] = [answer(403)]
    with pytest.raises(FetchError, match="403"):
        get()
    with pytest.raises(FetchError, match="another export"):
        get(group="7")
    assert get().files == 3


def test_a_request_that_was_never_taken_does_not_bind_the_folder(server, get, answer):
    server.out_of_turn["/fhir/Group/wrong/$export"] = [answer(404)]
    with pytest.raises(FetchError, match="404"):
        get(group="wrong")
    assert get(group="7").files == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk(server, get, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "_private", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(FetchError, match=r"no space.*run the same command again"):
        get()
    monkeypatch.undo()
    assert get().files == 3


def test_in_a_notebook_it_runs_beside_the_loop(get):
    async def cell():
        return get()

    assert asyncio.run(cell()).files == 3


# --- what is never written --------------------------------------------------------------------------------------------


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from ehr_tl.cli.main import main; main()"
    line = [sys.executable, "-c", code, "--verbose", "fetch", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def secrets_in(server, key: Path, *texts: str) -> list[str]:
    """Pieces of secrets that stand in any of the texts."""
    private = json.loads(key.read_text())
    secrets = [*server.secrets, private["d"], "cookie-1", "signature-1", "plain-secret"]
    pieces = [secret[i : i + 24] for secret in secrets for i in range(0, len(secret), 24)]
    return [piece for piece in pieces if len(piece) > 7 and any(piece in text for text in texts)]


def content(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("fault", [None, "token", "kick-off", "status", "file", "sign-in"])
def test_no_secret_is_written_logged_or_shown(server, key, get, tmp_path, answer, fault, outcome):
    out = tmp_path / "out"
    server.pending, server.uses = 2, 3
    server.secrets.append("opaque-1-secret")
    quoting = outcome("error", "login", "You sent Bearer opaque-1-secret, that is opaque-1-secret")
    refused = {"kick-off": "/fhir/$export", "status": "/status/1", "file": "/files/Patient.ndjson"}
    if fault in refused:
        server.out_of_turn[refused[fault]] = [answer(403, quoting)]
    elif fault == "token":
        server.out_of_turn["/token"] = [answer(body={"token_type": "bearer"})]
    elif fault == "sign-in":
        server.registered.clear()
    said = command(server.url, "--out", out, "--client-id", CLIENT, "--key", key)
    assert said.returncode == (2 if fault else 0), said.stderr
    assert server.secrets and secrets_in(server, key, said.stdout, said.stderr, *content(out)) == []
    if fault:
        assert said.stdout == "" and said.stderr.splitlines()[-1].startswith("Error: ")
        assert "───" not in said.stderr and "---" not in said.stderr
    else:
        assert "Holds    53 resources in 3 files" in said.stdout and said.stdout.endswith(f"Export: {out}\n")


def test_a_plain_token_comes_from_a_file_or_the_environment(server, key, get, tmp_path):
    server.plain_token = "plain-secret"
    (tmp_path / "token").write_text("plain-secret\n")
    for number, (options, environment) in enumerate(
        [(["--bearer-token-file", tmp_path / "token"], {}), ([], {"EHR_TL_BEARER_TOKEN": "plain-secret"})]
    ):
        out = tmp_path / f"out{number}"
        said = command(server.url, "--out", out, "--type", "Patient,Observation", *options, **environment)
        assert said.returncode == 0
        assert secrets_in(server, key, said.stdout, said.stderr, *content(out)) == []


def test_the_log_of_a_library_call_holds_no_secret(server, key, get, caplog):
    caplog.set_level(logging.DEBUG)
    server.pending, server.uses = 2, 3
    get()
    assert secrets_in(server, key, caplog.text) == []


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "smart_fetch", None)
    monkeypatch.delitem(sys.modules, "smart_fetch.bulk_utils", raising=False)
    with pytest.raises(FetchError, match=re.escape("pip install -c constraints.txt '.[fetch]'")):
        ehr_tl.fetch("https://fhir.example", tmp_path / "out")


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_it_converts_as_what_was_served_does(server, get, tmp_path):
    patients = [
        {"resourceType": "Patient", "id": f"p{n}", "gender": "female", "birthDate": "1960-05-01"} for n in range(3)
    ]
    conditions = [
        {
            "resourceType": "Condition",
            "id": f"c{n}",
            "subject": {"reference": f"Patient/p{n % 3}"},
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": str(44054006 + n)}]},
            "recordedDate": f"2025-0{n % 9 + 1}-01T10:00:00Z",
        }
        for n in range(9)
    ]
    served = {"Patient.ndjson": patients, "Condition.a.ndjson": conditions[:4], "Condition.b.ndjson": conditions[4:]}
    server.files = {name: b"".join(json.dumps(each).encode() + b"\n" for each in rows) for name, rows in served.items()}
    (tmp_path / "served").mkdir()
    for name, body in server.files.items():
        (tmp_path / "served" / name).write_bytes(body)
    get()
    made = [
        ehr_tl.convert(tmp_path / each, "fhir_r4", tmp_path / f"{each}_events").scan().collect()
        for each in ("served", "out")
    ]
    order = ["subject_id", "time", "code", "resource_id"]
    assert made[0].height > 12
    assert made[0].sort(order).equals(made[1].sort(order))
    assert made[1]["code"].dtype in (pl.String, pl.Categorical)
