"""Checkpoints of the Hugging Face hub: what a hub says names nothing outside of its cache."""

import json
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from leftovers import leave

from gap_vla.core.errors import message_of
from gap_vla.core.foreign import CheckpointError
from gap_vla.core.hub import fetched, kept_directory, local_directory
from gap_vla.octo.text import tokenizer_file

COMMIT = 40 * "a"
FILES = {"config.json": b'{"model": {}}', "7/default/checkpoint": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, with an empty cache; what it says is yielded, to be changed."""
    said = {
        "commit": COMMIT,
        "files": [*FILES],
        "etag": f"{tmp_path}/escaped",
        "status": 200,
        "silence": 0,
        "asked": [],
        "cut": 0,
    }

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition(f"/{COMMIT}/")[2]
            listing = {"id": "lab/mine", "sha": said["commit"], "siblings": said["files"]}
            listing["siblings"] = [{"rfilename": n, "size": len(FILES.get(n, b""))} for n in said["files"]]
            body = FILES.get(name, b"") if name else json.dumps(listing).encode()
            said["asked"] += [name] if name else []
            time.sleep(said["silence"])
            self.send_response(said["status"])
            for header in ("ETag", "X-Linked-Etag"):
                self.send_header(header, f'"{said["etag"]}"')
            self.send_header("X-Repo-Commit", said["commit"])
            if name and said["cut"]:
                body = body[: said["cut"]]
            else:
                self.send_header("Content-Length", len(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield said
    server.shutdown()
    server.server_close()


def test_a_snapshot_is_whole_and_lies_where_the_hubs_own_package_finds_it(hub, tmp_path):
    found = local_directory("hf://lab/mine")
    assert {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()} == FILES
    assert str(found) == snapshot_download("lab/mine", local_files_only=True)
    assert local_directory("hf://lab/mine") == found and sorted(hub["asked"]) == sorted(FILES)  # once each
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # whatever the ETags say


def test_what_a_killed_download_left_of_a_finished_snapshot_is_removed(hub, tmp_path):
    found = local_directory("hf://lab/mine")
    before = sorted(found.rglob("*"))
    hub["files"].append(".config.json.gap_vla-abcdefgh.partial/config.json")  # which somebody uploaded
    leave(found / "7" / "default" / "checkpoint")
    leave(found / "config.json", "config.json")
    leave(found.with_name("0" * 40) / "weights" / "a.bin", "a.bin")
    shutil.copytree(found.with_name("0" * 40), found.with_name("1" * 40))
    (theirs := next(found.parent.rglob("1*/weights/.a*")) / "mine").touch()
    assert local_directory("hf://lab/mine") == found and sorted(found.rglob("*")) == before
    assert [path for path in found.parent.rglob("*") if path.name.endswith(".partial")] == [theirs.parent]


def test_a_tokenizer_is_fetched_alone(hub, tmp_path):
    assert tokenizer_file("t5").read_bytes() == b"{}" and hub["asked"] == ["tokenizer.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"commit": "../../escaped"}, r"the hub calls its commit '\.\./\.\./escaped', which is the name of none"),
        ({"commit": None}, "the hub calls its commit None"),
        ({"files": ["config.json", "../../../escaped"]}, r"calls a file '\.\./\.\./\.\./escaped', which is the name"),
        ({"files": ["/tmp/escaped"]}, "calls a file '/tmp/escaped'"),
        ({"files": ["a//b"]}, "calls a file 'a//b'"),
        ({"status": 404}, r"hf://lab/mine could not be downloaded \(HfHubHTTPError: .*404"),
    ],
)
def test_a_hub_that_names_what_is_no_name_is_refused_before_anything_is_written(hub, tmp_path, said, message):
    hub |= said
    with pytest.raises(CheckpointError, match=message):
        local_directory("hf://lab/mine")
    assert not hub["asked"] and not [*tmp_path.iterdir()]


def test_a_file_that_a_proxy_cut_without_saying_its_size_is_not_kept(hub, tmp_path):
    hub["cut"] = 5
    with pytest.raises(CheckpointError, match=r"5 of the 13 bytes of config.json arrived; try again"):
        local_directory("hf://lab/mine")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["lab/mine@main", "lab/mine.git", "lab/mi ne", "lab/", "-a/b"])
@pytest.mark.parametrize("look", [local_directory, kept_directory])
def test_what_is_no_name_of_a_model_is_said_without_asking_a_hub(name, look):
    with pytest.raises(CheckpointError, match=rf"hf://{name} is no name of a model \(.*\); give hf://<owner>/<repo"):
        look(f"hf://{name}")


def test_a_hub_that_is_silent_is_not_waited_for_long(hub, monkeypatch):
    monkeypatch.setattr("gap_vla.core.hub.PATIENCE", 0.1)
    hub["silence"] = 2  # then it answers
    with pytest.raises(CheckpointError, match=r"hf://lab/mine could not be downloaded .*[Tt]ime"):
        local_directory("hf://lab/mine")


def test_a_proxy_that_the_hubs_package_cannot_use_is_said(monkeypatch):
    huggingface_hub.close_session()
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"lab/mine could not be downloaded \(ImportError: Using SOCKS proxy"):
        local_directory("hf://lab/mine")


def test_without_the_hubs_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        local_directory("hf://lab/mine")
    assert "pip install -e '.[hub]'" in message_of(missing.value)


def test_a_hub_that_cannot_be_asked_leaves_what_is_there_with_a_note_and_one_that_refuses_does_not(hub, capsys):
    found = fetched("lab/mine", ["tokenizer.json"])
    hub["status"] = 500
    assert local_directory("hf://lab/mine") == found
    note = "note: the hub could not be asked (HfHubHTTPError: Server error"
    said = capsys.readouterr().err
    assert said.startswith(note) and said.endswith(f"lab/mine, commit {COMMIT}, is used, be it all or a part\n")
    with pytest.raises(HfHubHTTPError, match="500"):
        fetched("lab/mine", ["config.json"])  # which is not there
    hub["status"] = 403
    with pytest.raises(CheckpointError, match=r"hf://lab/mine could not be downloaded \(HfHubHTTPError: .*403"):
        local_directory("hf://lab/mine")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b'{"architectures": ["Other"]}', r"config\.json has no model in it; .* nothing else was downloaded"),
        (b"[1]", r"config\.json"),
        (None, r"lab/mine has neither config\.json nor policy\.json; nothing was downloaded"),
    ],
)
def test_nothing_more_of_a_model_of_another_kind_is_downloaded(hub, monkeypatch, config, said):
    monkeypatch.setitem(FILES, "config.json", config)
    hub["files"] = ["README.md", "model.safetensors", *(["config.json"] if config else [])]
    with pytest.raises(CheckpointError, match=said) as refused:
        local_directory("hf://lab/mine")
    assert {*hub["asked"]} == ({"config.json"} if config else set())
    assert "could not be downloaded" not in str(refused.value)


def test_the_home_of_a_user_whom_nobody_knows_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert local_directory("~/model") == tmp_path / "model"
    with pytest.raises(CheckpointError, match=r"^~nosuch-user/model: no such checkpoint directory$"):
        local_directory("~nosuch-user/model")
