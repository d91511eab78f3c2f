"""Results of many runs, read from what they leave."""

import json

import pytest

from tests.runs.small import open_run, sentence_of, tiny_config
from wsss_lib.results.collect import (
    check_parameters,
    find_results,
    missing,
    open_first,
    read_result,
    results_table,
)


def leave(folder, seed=0, seeds=None, refinements=None, network=None):
    metrics = {
        "seed": seed,
        "seconds": {"training": 60.0, "inference val": 30.0},
        "peak_memory_mib": 100 + seed,
        "cams": {split: {"swept": {"mean_iou": value, "threshold": 0.3}} for split, value in (seeds or {}).items()},
    }
    if refinements:
        rows = {split: {n: {"mean_iou": v} for n, v in values.items()} for split, values in refinements.items()}
        metrics["refinements"] = rows
    write(folder / "metrics.json", metrics)
    if network:
        masks = {
            s: {"segmentation": {"mean_iou": a}, "segmentation-crf": {"mean_iou": b}} for s, (a, b) in network.items()
        }
        other = {"seconds": {"training": 30.0}, "peak_memory_mib": 500, "masks": masks}
        write(folder / "segmentation" / "crf-8" / "metrics.json", other)
    return folder


def test_of_several_networks_the_one_that_is_best_on_train(tmp_path):
    leave(tmp_path, 0, {"train": 0.5, "val": 0.4}, network={"train": (0.8, 0.81), "val": (0.61, 0.62)})
    other = json.loads((tmp_path / "segmentation" / "crf-8" / "metrics.json").read_text())
    for value, expected in ((0.7, 0.61), (0.9, 0.3)):
        other["masks"]["train"]["segmentation"]["mean_iou"] = value
        other["masks"]["val"]["segmentation"]["mean_iou"] = 0.3
        write(tmp_path / "segmentation" / "crf-8-resnet38d" / "metrics.json", other)
        assert read_result(tmp_path).stages["val"]["network"] == expected


def test_scores_that_are_no_number(tmp_path):
    """An earlier version scored masks that are ignored everywhere."""
    refinements = {split: {"crf-4": None, "crf-8": 0.3, "walk": None} for split in ("train", "val")}
    network = {"train": (None, None), "val": (None, 0.2)}
    leave(tmp_path / "00_cam" / "toy", 0, {"train": None, "val": None}, refinements, network)
    results = find_results(tmp_path, "toy")
    assert results["00_cam"][0].stages["val"] == {"CRF": 0.3, "network, CRF": 0.2}
    assert results_table(results, "val").splitlines()[-1].startswith("| `00_cam` | 1 | 30.0 | 20.0 | 0.30 |")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_all_stages_of_a_run(tmp_path):
    refinements = {
        "train": {"cam": 0.5, "crf-4": 0.6, "crf-32": 0.7, "walk": 0.71, "walk-crf": 0.72},
        "val": {"cam": 0.4, "crf-4": 0.55, "crf-32": 0.45, "walk": 0.51, "walk-crf": 0.52},
    }
    leave(tmp_path / "run", 3, {"train": 0.5, "val": 0.4}, refinements, {"train": (0.8, 0.81), "val": (0.61, 0.62)})
    result = read_result(tmp_path / "run")
    assert (result.seed, result.threshold, result.seconds, result.memory) == (3, 0.3, 120.0, 500)
    wanted = {"CAM seed": 0.4, "CRF": 0.45, "walk": 0.51, "walk, CRF": 0.52, "network": 0.61, "network, CRF": 0.62}
    assert result.stages["val"] == wanted  # the CRF that is best on train, not on val


def test_runs_with_the_settings_of_the_preset(tmp_path):
    for name in ("toy-seed=10", "toy", "toy-seed=2", "toy-epochs=3", "toy-epochs=3-seed=5", "photos"):
        seed = int(name.partition("seed=")[2] or 0)
        leave(tmp_path / "00_cam" / name, seed, {"train": 0.5, "val": 0.4 + seed / 100})
    leave(tmp_path / "05_msal" / "toy", 0, {"train": 0.5, "val": 0.45})
    results = find_results(tmp_path, "toy")
    assert {name: [r.seed for r in runs] for name, runs in results.items()} == {"00_cam": [0, 2, 10], "05_msal": [0]}
    assert [r.seed for r in find_results(tmp_path, "toy", "epochs=3")["00_cam"]] == [0, 5]
    lines = results_table(results, "val").splitlines()
    assert lines[0] == "|  | runs | CAM seed | threshold | minutes | peak MiB |"
    assert lines[2] == "| `00_cam` | 3 | 44.0 ± 5.3 | 0.30 | 1.5 | 110 |"
    assert lines[3] == "| `05_msal` | 1 | 45.0 | 0.30 | 1.5 | 100 |"


def test_a_run_without_masks(tmp_path):
    result = read_result(leave(tmp_path / "run"))
    assert (result.threshold, result.stages) == (None, {})
    assert "| `x` | 1 |  |" in results_table({"x": [result]}, "val")


@pytest.mark.parametrize("content", ["[]", "{}", '{"cams": 3}', '{"cams": {"train": {}}, "seconds": {}}'])
def test_metrics_of_another_version(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert sentence_of(lambda: read_result(tmp_path)).endswith("run the notebook of this run again to its end.")


def test_what_is_missing(tmp_path):
    leave(tmp_path / "00_cam" / "photos")
    lines = missing(find_results(tmp_path, "photos"), "photos")
    assert len(lines) == 6
    assert lines[0] == (
        "no run of 01_affinitynet: papermill notebooks/01_affinitynet.ipynb runs/01_affinitynet.ipynb "
        "-p preset photos -p data_root FOLDER"
    )


def test_the_parameters_of_the_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = {"preset": "toy", "variant": "", "runs": "", "segmentation": False, "images": 4}
    right |= {"backbone": "", "weights": ""}
    assert check_parameters(right) == (tmp_path / "runs", None)
    assert check_parameters({**right, "runs": str(tmp_path)}) == (tmp_path, None)
    (tmp_path / "net.pth").touch()
    final = {**right, "segmentation": True, "backbone": "resnet38d"}
    assert check_parameters({**final, "preset": "voc12", "weights": "net.pth"})[1] == tmp_path / "net.pth"
    assert "weights of resnet38d are missing" in sentence_of(lambda: check_parameters({**final, "preset": "voc12"}))
    assert "backbone 'vgg16' cannot be used" in sentence_of(lambda: check_parameters({**final, "backbone": "vgg16"}))
    assert "weights x does not exist" in sentence_of(lambda: check_parameters({**right, "weights": "x"}))
    unused = sentence_of(lambda: check_parameters({**right, "backbone": "resnet38d"}))
    assert unused == "backbone applies to the final network, which is not trained; add segmentation=True."
    assert "preset 'x' is unknown" in sentence_of(lambda: check_parameters({**right, "preset": "x"}))
    assert "images must be of type int" in sentence_of(lambda: check_parameters({**right, "images": "four"}))
    assert "runs arrived as the number 2012" in sentence_of(lambda: check_parameters({**right, "runs": 2012}))
    texts = {**right, "images": "4", "segmentation": "False"}
    check_parameters(texts)
    assert (texts["images"], texts["segmentation"]) == (4, False)
    assert "is not a folder; give the folder" in sentence_of(lambda: check_parameters({**right, "runs": "nowhere"}))
    unknown = {**right, "In": ["# Parameters\nimage = 3\n"], "image": 3}
    assert sentence_of(lambda: check_parameters(unknown)) == "parameter image is unknown; perhaps images is meant."


def test_runs_that_can_be_opened(tmp_path, capsys):
    settings = open_run(tmp_path / "a" / "toy", tiny_config(), limit=4).settings
    leave_metrics = {"train": 0.5}
    results = {"a": [read_result(leave(settings.folder, 0, leave_metrics))]}
    results["b"] = [read_result(leave(tmp_path / "b" / "toy", 0, leave_metrics))]
    assert open_first(results)["a"].folder == settings.folder
    assert capsys.readouterr().out.startswith(f"b is left out: {tmp_path / 'b' / 'toy' / 'config.json'} is missing")


def test_scores_that_are_null_are_left_out(tmp_path):
    """As of masks in which every pixel is ignored."""
    refinements = {"train": {"cam": None, "crf-4": None, "crf-32": None}, "val": {"crf-4": 0.3, "crf-32": 0.4}}
    leave(tmp_path / "a", 0, {"train": None, "val": 0.2}, refinements, {"train": (None, 0.5), "val": (None, None)})
    leave(tmp_path / "b", 0, {"train": None, "val": None})
    results = {name: [read_result(tmp_path / name)] for name in ("a", "b")}
    [first] = results["a"]
    assert first.stages == {"train": {"network, CRF": 0.5}, "val": {"CAM seed": 0.2, "CRF": 0.3}}
    assert first.network == tmp_path / "a" / "segmentation" / "crf-8"
    lines = results_table(results, "val").splitlines()
    assert lines[0] == "|  | runs | CAM seed | CRF | threshold | minutes | peak MiB |"
    assert lines[2] == "| `a` | 1 | 20.0 | 30.0 | 0.30 | 2.0 | 500 |"
    assert lines[3] == "| `b` | 1 |  |  | 0.30 | 1.5 | 100 |"


def test_a_run_of_which_only_val_has_masks(tmp_path):
    """Of several powers the one nearest to the fixed one is taken, for none may be chosen on val."""
    refinements = {"val": {"cam": 0.4, "crf-32": 0.45, "crf-4": 0.3}}
    leave(tmp_path, 0, {"val": 0.4}, refinements, {"val": (0.6, 0.7)})
    result = read_result(tmp_path)
    assert result.threshold == 0.3
    assert result.stages == {"val": {"CAM seed": 0.4, "CRF": 0.3, "network": 0.6, "network, CRF": 0.7}}
