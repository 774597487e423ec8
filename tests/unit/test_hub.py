import hashlib
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from ehr_tl.errors import CheckpointError
from ehr_tl.hub import SUMS, pull, push
from ehr_tl.models.checkpoint import load_checkpoint
from ehr_tl.transfer.seen import SEEN


@pytest.fixture
def ours(write_checkpoint, tmp_path):
    folder = write_checkpoint(tmp_path / "ours", {"LOINC//1": "Glucose"})
    (folder / "source").mkdir()
    (folder / "source" / "death.txt").write_text("tree\n")
    (folder / "source" / "tasks.json").write_text("{}")
    return folder


@pytest.fixture
def shared(ours, tmp_path):
    push(ours, str(tmp_path / "share" / "ours"))
    return tmp_path / "share" / "ours"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SUMS
    }


def sums(folder, **changes):
    names = {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()} | changes
    (folder / SUMS).write_text("".join(f"{checksum}  {name}\n" for name, checksum in names.items()))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_what_was_pushed_is_what_is_pulled(ours, tmp_path, form):
    place = form.format(tmp_path / "share")
    names = push(ours, place)
    assert names == sorted(contents(ours)) and "MODEL_CARD.md" in names and "source/death.txt" in names
    assert pull(place, tmp_path / "mine") == names
    assert contents(tmp_path / "mine") == contents(ours)
    assert load_checkpoint(tmp_path / "mine").card == "# A card\n"
    assert not list(tmp_path.rglob("*.partial"))


def test_checksums_are_as_the_common_tool_reads_them(shared):
    lines = dict(reversed(line.split("  ")) for line in (shared / SUMS).read_text().splitlines())
    assert lines == {name: hashlib.sha256(data).hexdigest() for name, data in contents(shared).items()}


def damage(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage("model.safetensors"), "model.safetensors is not what was pushed"),
        (damage("source/death.txt"), "source/death.txt is not what was pushed"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "vocabulary.json missing"),
        (lambda folder: (folder / SUMS).unlink(), "no SHA256SUMS"),
        (lambda folder: (folder / SUMS).write_text("nothing"), "SHA256SUMS is not"),
        (lambda folder: (folder / SUMS).write_text(""), "SHA256SUMS is not"),
        (lambda folder: sums(folder, **{"../outside.txt": "0" * 64}), "SHA256SUMS is not"),
        (lambda folder: sums(folder, **{"/etc/hostname": "0" * 64}), "SHA256SUMS is not"),
        (lambda folder: (folder / "tricks.pkl").touch(), "execute code"),
        (lambda folder: ((folder / "config.json").write_text('{"auto_map": {}}'), sums(folder)), "auto_map"),
    ],
)
def test_what_is_not_as_it_was_pushed_is_refused_and_nothing_stays(shared, tmp_path, harm, said):
    harm(shared)
    with pytest.raises(CheckpointError, match=said):
        pull(str(shared), tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "share"]


def test_a_folder_that_holds_something_is_left_alone(ours, shared, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    for act in (lambda: push(ours, str(tmp_path / "taken")), lambda: pull(str(shared), tmp_path / "taken")):
        with pytest.raises(CheckpointError, match="there already"):
            act()
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"


def test_no_broken_checkpoint_is_pushed(ours, tmp_path):
    whole = contents(ours)
    for name, said in (("vocabulary.json", "vocabulary"), ("source/tasks.json", "tasks.json"), (SEEN, SEEN)):
        (ours / name).write_text("[]")
        with pytest.raises(CheckpointError, match=said):
            push(ours, str(tmp_path / "share"))
        (ours / name).unlink()
        if name in whole:
            (ours / name).write_bytes(whole[name])
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize("name", ["cohort.parquet", "source/notes.md", "model-2.safetensors"])
def test_what_is_no_part_of_a_checkpoint_is_not_pushed(ours, tmp_path, name):
    (ours / name).write_text("patients")
    with pytest.raises(CheckpointError, match=f"holds {name}, no part of a checkpoint"):
        push(ours, str(tmp_path / "share"))
    assert not (tmp_path / "share").exists()


def test_a_checkpoint_of_the_other_family_is_pushed_with_its_shards_alone(tmp_path):
    names = ["README.md", "config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    names.append("tokenizer_config.json")
    (tmp_path / "theirs").mkdir()
    for name in [*names, "labels.csv"]:
        (tmp_path / "theirs" / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds labels\.csv"):
        push(tmp_path / "theirs", str(tmp_path / "share"))
    (tmp_path / "theirs" / "labels.csv").unlink()
    assert push(tmp_path / "theirs", str(tmp_path / "share")) == names


@pytest.mark.parametrize("place", ["hf://owner/name", "hf://owner", "hf://owner/../name", "https://hub/owner/name"])
def test_no_network_unless_asked_and_no_other_places(ours, tmp_path, monkeypatch, place):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    for act in (lambda: push(ours, place), lambda: pull(place, tmp_path / "mine")):
        with pytest.raises(CheckpointError, match="--online" if place == "hf://owner/name" else "Expected"):
            act()


class Hub:
    """The client's functions over a folder."""

    def __init__(self, root: Path):
        self.root, self.token, self.private = root, None, None

    def __call__(self, token):
        self.token = token
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        assert delete_patterns == "*"
        shutil.rmtree(self.root / repo_id)
        shutil.copytree(folder_path, self.root / repo_id)
        (self.root / repo_id / ".gitattributes").touch()

    def repo_info(self, repo_id):
        return SimpleNamespace(sha="abc")

    def list_repo_files(self, repo_id, *, revision):
        assert revision == "abc"
        return [*contents(self.root / repo_id), SUMS]

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir):
        assert revision == "abc"
        (Path(local_dir) / filename).parent.mkdir(parents=True, exist_ok=True)
        (Path(local_dir) / ".cache").mkdir(exist_ok=True)
        shutil.copy(self.root / repo_id / filename, Path(local_dir) / filename)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", found)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return found


def test_a_hub_takes_and_gives_the_same(ours, hub, tmp_path):
    push(ours, "hf://owner/name", online=True)
    assert hub.token == "hf_secret" and hub.private
    assert pull("hf://owner/name", tmp_path / "mine", online=True) == sorted(contents(ours))
    assert contents(tmp_path / "mine") == contents(ours)
    damage("model.safetensors")(hub.root / "owner" / "name")
    with pytest.raises(CheckpointError, match="not what was pushed"):
        pull("hf://owner/name", tmp_path / "other", online=True)
    (hub.root / "owner" / "name" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        pull("hf://owner/name", tmp_path / "other", online=True)
    assert not (tmp_path / "other").exists()


def test_a_hub_that_refuses_is_told_without_the_token(ours, hub, monkeypatch, tmp_path, caplog):
    def refuse(*arguments, **more):
        raise OSError("Authorization: Bearer hf_secret")

    monkeypatch.setattr(hub, "repo_info", refuse)
    monkeypatch.setattr(hub, "create_repo", refuse)
    caplog.set_level(logging.DEBUG)
    for act in (
        lambda: push(ours, "hf://o/n", online=True),
        lambda: pull("hf://o/n", tmp_path / "mine", online=True),
    ):
        with pytest.raises(CheckpointError, match="cannot be reached: OSError") as said:
            act()
        assert "hf_secret" not in f"{said.value}{said.value.__cause__}{caplog.text}"
