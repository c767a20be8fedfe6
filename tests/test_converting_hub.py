"""Data sets of the hub: every option reaches `datasets`, the card names the commit, streaming changes no byte."""

import json
import sys
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from useful_code import convert_dataset
from useful_code.converting.convert import convert
from useful_code.converting.inputs import hub_commit
from useful_code.user_errors import UserError, exit_cleanly

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hh_row(number):
    return {
        side: f"\n\nHuman: Q{number}\n\nAssistant: {side} 東{'京' * (number % 3)}" for side in ("chosen", "rejected")
    }


def rated_row(number):
    completions = [{"response": f"answer {place}", "fine-grained_score": place + number % 2} for place in range(3)]
    return {"instruction": f"Q{number}", "completions": completions, "source": "x" if number % 2 else None}


class Hub:
    """Stands in for the hub: data sets that are really read by `datasets`, and what was asked of it."""

    def __init__(self, folder):
        self.folder = folder
        self.files = {}  # data set -> split -> file
        self.commits = {}  # revision that somebody may ask for -> commit
        self.loaded, self.resolved = [], []
        self.load_from_files = datasets.load_dataset

    def upload(self, name, **splits):
        self.files[name] = {}
        for split, rows in splits.items():
            file = self.folder / f"{name.replace('/', '-')}-{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            self.files[name][split] = str(file)

    def load_dataset(self, path, **options):
        self.loaded.append((path, options))
        if path not in self.files:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nor cannot be accessed.")
        if options.get("name") == "wrong":
            raise ValueError("BuilderConfig 'wrong' not found. Available: ['default']\nand more\nlines")
        streaming = options.get("streaming", False)
        cache = str(self.folder / "cache")
        return self.load_from_files("json", data_files=self.files[path], streaming=streaming, cache_dir=cache)

    def dataset_info(self, name, revision=None):
        self.resolved.append((name, revision))
        if name not in self.files or revision not in self.commits:
            raise ValueError(f"404 Client Error. Not found: {name} at {revision}\nRequest ID: Root=1-2-3")
        return SimpleNamespace(sha=self.commits[revision])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    hub = Hub(tmp_path / "hub")
    hub.upload("owner/hh", train=[hh_row(n) for n in range(12)], test=[hh_row(n) for n in range(100, 105)])
    hub.commits = {None: COMMIT, "v1.0": COMMIT[::-1]}
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    yield hub
    datasets.enable_progress_bars()


def run(monkeypatch, *flags):
    """The command, in this process; returns the card."""
    arguments = ["--source", "hh_rlhf", "--input", "owner/hh", "--output", "out", *flags]
    monkeypatch.setattr(sys, "argv", ["convert_dataset.py", *arguments])
    convert_dataset.main()
    with open("out/card.json", encoding="utf-8") as file:
        return json.load(file)


def rows_in(folder):
    loaded = datasets.Dataset.from_parquet([str(path) for path in sorted(folder.glob("train-*"))])
    return [row["chosen"][0]["content"] for row in loaded]


def test_every_option_reaches_the_library_and_the_card(hub, monkeypatch, tmp_path):
    flags = ["--config_name", "default", "--data_dir", "harmless-base", "--split", "test", "--streaming"]
    card = run(monkeypatch, *flags, "--revision", "v1.0")
    asked = {"name": "default", "data_dir": "harmless-base", "revision": COMMIT[::-1], "streaming": True}
    assert hub.resolved == [("owner/hh", "v1.0")] and hub.loaded == [("owner/hh", asked)]
    assert card["inputs"] == [{"hub": "owner/hh", "revision": COMMIT[::-1]}]
    assert {key: card["options"][key] for key in (*asked, "split")} == {**asked, "split": "test"}
    page = (tmp_path / "out" / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"| owner/hh |  | {COMMIT[::-1]} |" in page and "data_dir harmless-base" in page
    assert rows_in(tmp_path / "out") == [f"Q{number}" for number in range(100, 105)]


def test_without_options_the_newest_commit_of_the_training_split_is_read(hub, monkeypatch, tmp_path, capsys):
    card = run(monkeypatch)
    assert hub.resolved == [("owner/hh", None)] and hub.loaded == [("owner/hh", {"revision": COMMIT})]
    assert card["inputs"] == [{"hub": "owner/hh", "revision": COMMIT}] and card["options"]["split"] is None
    assert "name" not in card["options"] and "streaming" not in card["options"]
    assert rows_in(tmp_path / "out") == [f"Q{number}" for number in range(12)]
    output = capsys.readouterr()
    assert "owner/hh: 12 rows read, 12 kept" in output.out and "asking the hub" in output.err


def test_options_reach_the_hub_beside_a_folder_of_many_files(hub, tmp_path):
    (tmp_path / "raw").mkdir()
    for number in (50, 51, 52):
        (tmp_path / "raw" / f"{number}.jsonl").write_text(json.dumps(hh_row(number)) + "\n", encoding="utf-8")
    card = convert("hh_rlhf", ["raw", "owner/hh"], "out", name="default", revision="v1.0", split=None)
    assert hub.loaded == [("owner/hh", {"name": "default", "revision": COMMIT[::-1]})]
    assert rows_in(tmp_path / "out") == ["Q50", "Q51", "Q52", *(f"Q{number}" for number in range(12))]
    assert card["options"]["name"] == "default" and card["inputs"][3]["revision"] == COMMIT[::-1]


def test_columns_are_looked_up_in_the_data_set_that_the_options_name(hub, monkeypatch):
    hub.upload("owner/hh", train=[{"question": "Q", "chosen": "a", "rejected": "b"}])
    flags = ["--source", "columns", "--prompt_column", "question", "--config_name", "default", "--data_dir", "d"]
    run(monkeypatch, *flags, "--revision", "v1.0", "--streaming")
    looked_up, read = (options for _, options in hub.loaded)
    assert looked_up == read | {"revision": "v1.0"} and read["revision"] == COMMIT[::-1]


def test_the_only_split_needs_no_name(hub, monkeypatch, tmp_path):
    hub.upload("owner/hh", validation=[hh_row(3)])
    run(monkeypatch, "--streaming")
    assert rows_in(tmp_path / "out") == ["Q3"]


def test_rows_are_located_by_split_and_number(hub, monkeypatch, tmp_path):
    hub.upload("owner/hh", train=[hh_row(1), {"chosen": None, "rejected": "x"}, hh_row(2)])
    card = run(monkeypatch, "--format", "jsonl")
    (shard,) = (tmp_path / "out").glob("train-*")
    assert [json.loads(line)["source_id"] for line in shard.read_text().splitlines()] == [
        "owner/hh/train:1",
        "owner/hh/train:3",
    ]
    (refused,) = map(json.loads, (tmp_path / "out" / "refused_rows.jsonl").read_text().splitlines())
    assert (refused["file"], refused["line"], refused["reason"]) == ("owner/hh/train", 2, "missing_key")
    assert (card["rows_read"], card["rows_kept"]) == (3, 2)


@pytest.mark.parametrize(
    ("source", "row_of", "extra"),
    [
        ("hh_rlhf", hh_row, {"chosen": "no turn", "rejected": None}),
        ("ultrafeedback", rated_row, {"instruction": "Q", "completions": []}),
        (
            "beavertails",
            lambda number: {"prompt": f"Q{number % 5}", "response": f"A{number}", "is_safe": number < 9},
            {"prompt": None, "response": "A", "is_safe": None},
        ),
    ],
)
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_a_streamed_set_gives_the_same_bytes(hub, tmp_path, source, row_of, extra, file_format):
    rows = [row_of(number) for number in range(20)]
    hub.upload("owner/set", train=[*rows, extra])
    made = []
    for streaming in (False, True):
        folder = tmp_path / f"streaming {streaming}"
        card = convert(source, ["owner/set"], folder, file_format=file_format, streaming=streaming)
        made.append(({path.name: path.read_bytes() for path in folder.glob("*s.jsonl")}, card["files"]))
        made[-1][0].update({path.name: path.read_bytes() for path in folder.glob("train-*")})
    assert [options.get("streaming", False) for _, options in hub.loaded] == [False, True]
    assert made[0] == made[1] and len(made[0][0]) == 2


def test_the_same_commit_is_not_read_again_and_another_one_is(hub, monkeypatch, capsys):
    first = run(monkeypatch)
    assert run(monkeypatch) == first and len(hub.loaded) == 1
    assert "already made" in capsys.readouterr().err
    hub.upload("owner/hh", train=[hh_row(7)])
    hub.commits[None] = "f" * 40
    second = run(monkeypatch)
    assert len(hub.loaded) == 2 and hub.loaded[1][1]["revision"] == "f" * 40
    assert second["rows_read"] == 1 and second["made_from"] != first["made_from"]


@pytest.mark.parametrize(
    "flags",
    [["--config_name", "other"], ["--data_dir", "other"], ["--split", "test"], ["--streaming"], ["--revision", "v1.0"]],
)
def test_another_option_is_another_data_set(hub, monkeypatch, flags):
    first = run(monkeypatch)
    second = run(monkeypatch, *flags)
    assert len(hub.loaded) == 2 and second["made_from"] != first["made_from"]


def test_without_a_network_the_revision_is_taken_as_it_is(hub, monkeypatch):
    """What was downloaded before can still be read, and the card says no more than is known."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert run(monkeypatch, "--revision", "v1.0")["inputs"] == [{"hub": "owner/hh", "revision": "v1.0"}]
    assert run(monkeypatch)["inputs"] == [{"hub": "owner/hh", "revision": None}]
    assert hub.resolved == [] and [options for _, options in hub.loaded] == [{"revision": "v1.0"}, {}]


def test_which_inputs_are_resolved_to_a_commit(hub, tmp_path):
    """One hub data set, beside files or alone; several share one --revision, which is passed on as it is."""
    hub.upload("owner/other", train=[hh_row(1)])
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "local").write_text("")
    local = str(tmp_path / "raw.jsonl")
    assert hub_commit([local, "owner/hh"], None) == COMMIT and hub_commit(["owner/hh"], "v1.0") == COMMIT[::-1]
    assert hub_commit(["owner/hh", "owner/other"], None) is None
    assert hub_commit(["owner/hh", "owner/other"], "v1.0") == "v1.0"
    assert hub_commit([local], "v1.0") is None and hub_commit(["owner/local", "sets/a.jsonl"], "v1.0") is None
    assert hub.resolved == [("owner/hh", None), ("owner/hh", "v1.0")]


def test_several_sets_of_the_hub_and_a_file_come_in_the_given_order(hub, tmp_path):
    hub.upload("owner/other", train=[hh_row(50)])
    (tmp_path / "raw.jsonl").write_text(json.dumps(hh_row(60)) + "\n", encoding="utf-8")
    card = convert("hh_rlhf", ["owner/other", "raw.jsonl", "owner/hh"], "out", revision="v1.0", split=None)
    assert rows_in(tmp_path / "out") == ["Q50", "Q60", *(f"Q{number}" for number in range(12))]
    assert hub.loaded == [("owner/other", {"revision": "v1.0"}), ("owner/hh", {"revision": "v1.0"})]
    assert [entry.get("file") or entry["hub"] for entry in card["inputs"]] == ["raw.jsonl", "owner/other", "owner/hh"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "owner/none"], "error: owner/none: no such file or folder, and not found on the hub (404 Client"),
        (["--revision", "v9"], "error: owner/hh: no such file or folder, and not found on the hub (404 Client Error."),
        (["--split", "dev"], "error: owner/hh: no split 'dev'; it has train, test\n"),
        (["--split", "dev", "--streaming"], "error: owner/hh: no split 'dev'; it has train, test\n"),
        (["--config_name", "wrong"], "not loadable from the hub (ValueError: BuilderConfig 'wrong' not found. Avail"),
        (["--input", "hh", "--split", "train"], "error: hh: no such file or folder\n"),
        (
            ["--input", "raw.jsonl", "--config_name", "x"],
            "error: --config_name belongs to data sets of the hub, and raw",
        ),
        (["--input", "raw.jsonl", "--streaming"], "error: --streaming belongs to data sets of the hub, and raw.jsonl"),
        (["--input", "raw.jsonl", "--split", "train"], "error: raw.jsonl: only hub data sets have splits ('train')"),
    ],
)
def test_a_wrong_name_revision_split_or_configuration_is_one_line(hub, monkeypatch, tmp_path, capsys, flags, message):
    (tmp_path / "raw.jsonl").write_text(json.dumps(hh_row(1)) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit) as status:
        exit_cleanly(lambda: run(monkeypatch, *flags))
    lines = [line for line in capsys.readouterr().err.splitlines(True) if "asking the hub" not in line]
    assert status.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out" / "card.json").exists()


def test_offline_a_set_that_was_never_downloaded_is_one_line(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        run(monkeypatch, "--input", "owner/none")
    assert str(error.value) == (
        "owner/none: no such file or folder, and not loadable from the hub "
        "(FileNotFoundError: Dataset 'owner/none' doesn't exist on the Hub)"
    )


def test_a_wrong_option_does_not_touch_what_was_made_before(hub, monkeypatch, tmp_path):
    run(monkeypatch)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="no split 'dev'"):
        run(monkeypatch, "--split", "dev")
    now = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert now == before


@pytest.mark.parametrize("error", [ValueError("bad chunk\nand more"), ConnectionError("reset by peer")])
def test_a_stream_that_breaks_is_one_line_and_names_the_data_set(hub, monkeypatch, error):
    def rows():
        yield from map(hh_row, range(3))
        raise error

    stream = datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(rows)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    with pytest.raises(UserError) as told:
        convert("hh_rlhf", ["owner/hh"], "out", streaming=True)
    first = str(error).splitlines()[0]
    assert f"owner/hh: reading stopped after 3 rows ({type(error).__name__}: {first})" in str(told.value)
    assert "\n" not in str(told.value)
