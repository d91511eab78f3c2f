"""Refinement of a whole data set: what is written, what is not done twice, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.methods.official import picture
from tests.runs.small import Pictures, smooth_cams
from wsss_lib.errors import InputError
from wsss_lib.ops import dense_crf as crf
from wsss_lib.ops.cam import background_power, cam_label
from wsss_lib.stages.refine import PowerBackgrounds, Threshold, label_map, refine
from wsss_lib.stages.store import CamStore, MaskStore, ScoreStore

SIZES = [(20, 26), (33, 18), (20, 26), (24, 24), (20, 26)]
LABELS = [[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
ALPHAS = (4.0, 32.0)


@pytest.fixture
def pictures():
    return Pictures(SIZES, LABELS)


@pytest.fixture
def cams(tmp_path, pictures):
    return smooth_cams(tmp_path / "cams", pictures)


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def refined(folder, data, cams, fabric, alphas=ALPHAS, **options):
    """The probabilities with some alphas, unrounded."""
    stores = [ScoreStore(folder / f"{alpha:g}", half=False) for alpha in alphas]
    refine(data, PowerBackgrounds(cams, alphas), stores, fabric, **options)
    return stores


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(store):
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.exists() else []


def powered(cams, image_id, alpha):
    """Scores with their background, written out."""
    classes, maps = cams.read(image_id)
    strongest = maps.amax(0) if len(maps) else torch.zeros(maps.shape[1:])
    return classes, torch.cat([(1 - strongest)[None] ** alpha, maps])


# -------------------------------------------------------------------------------------------------- what is written


def test_fields_solved_together_are_those_solved_alone(tmp_path, pictures, cams, fabric):
    stores = refined(tmp_path / "scores", pictures, cams, fabric)
    for index, image_id in enumerate(pictures.ids):
        image = torch.from_numpy(pictures.pixels[index]).permute(2, 0, 1)
        for store, alpha in zip(stores, ALPHAS, strict=True):
            classes, scores = powered(cams, image_id, alpha)
            [expected] = crf.dense_crf([image], [-scores.clamp(1e-5, 1).log()], "psa")
            read_classes, probabilities = store.read(image_id)
            assert torch.equal(read_classes, classes)
            torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(probabilities.sum(0), torch.ones(SIZES[index]), rtol=0, atol=1e-5)


def test_the_alpha_decides(tmp_path, pictures, cams, fabric):
    low, high = refined(tmp_path / "scores", pictures, cams, fabric)
    for image_id in (pictures.ids[i] for i in (0, 1, 2, 4)):
        assert low.read(image_id)[1][0].mean() > high.read(image_id)[1][0].mean()


def test_masks_are_the_most_probable_labels(tmp_path, pictures, cams, fabric):
    scores = refined(tmp_path / "scores", pictures, cams, fabric)
    masks = [MaskStore(tmp_path / "masks" / f"{alpha:g}") for alpha in ALPHAS]
    refine(pictures, PowerBackgrounds(cams, ALPHAS), masks, fabric)
    seen = set()
    for index, image_id in enumerate(pictures.ids):
        for store, mask_store in zip(scores, masks, strict=True):
            classes, probabilities = store.read(image_id)
            values = np.array([0, *(classes.numpy() + 1)])
            mask = mask_store.read(image_id, 3, SIZES[index]).numpy()
            np.testing.assert_array_equal(mask, values[probabilities.numpy().argmax(0)])
            seen |= {*mask.flatten().tolist()}
    assert seen == {0, 1, 2, 3}


def test_probabilities_are_rounded_where_that_is_wanted(tmp_path, pictures, cams, fabric):
    [exact] = refined(tmp_path / "exact", pictures, cams, fabric, alphas=(4.0,))
    half = ScoreStore(tmp_path / "half")
    refine(pictures, PowerBackgrounds(cams, (4.0,)), [half], fabric)
    for image_id in pictures.ids:
        assert torch.equal(half.read(image_id)[1], exact.read(image_id)[1].half().float())


def test_labels_of_equal_scores():
    scores = torch.tensor([[0.5, 0.2, 0.2, 0.0], [0.5, 0.4, 0.3, 0.0], [0.1, 0.4, 0.5, 0.0]])[:, None]
    labels = label_map(torch.tensor([4, 11]), scores)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[0, 5, 12, 0]]


def test_without_settings_the_scores_are_left_as_they_are(tmp_path, pictures, cams, fabric, monkeypatch):
    monkeypatch.setattr(crf, "dense_crf", None)
    stores = refined(tmp_path / "scores", pictures, cams, fabric, preset=None)
    for image_id in pictures.ids:
        classes, maps = cams.read(image_id)
        for store, alpha in zip(stores, ALPHAS, strict=True):
            read_classes, scores = store.read(image_id)
            assert torch.equal(read_classes, classes)
            assert torch.equal(scores, background_power(maps, alpha))


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_threshold_without_a_field_is_the_seed(tmp_path, pictures, cams, fabric, threshold):
    store = MaskStore(tmp_path / "masks")
    refine(pictures, Threshold(cams, threshold), [store], fabric, preset=None)
    for image_id in pictures.ids:
        classes, maps = cams.read(image_id)
        assert torch.equal(store.read(image_id, 3), cam_label(maps, classes, threshold))


def test_a_threshold_is_a_score_of_the_background(pictures, cams):
    classes, scores = Threshold(cams, 0.25)(pictures, 1)
    assert classes.tolist() == [1, 2]
    assert scores.shape == (1, 3, *SIZES[1])
    assert (scores[0, 0] == 0.25).all()
    assert torch.equal(scores[0, 1:], cams.read(pictures.ids[1])[1])


def test_images_without_classes_are_background(tmp_path, pictures, cams, fabric, monkeypatch):
    solved, plain = [], crf.dense_crf

    def watched(images, unaries, *options):
        solved.extend(tuple(unary.shape[1:]) for unary in unaries)
        return plain(images, unaries, *options)

    monkeypatch.setattr(crf, "dense_crf", watched)
    stores = refined(tmp_path / "scores", pictures, cams, fabric)
    mask = MaskStore(tmp_path / "masks")
    refine(pictures, PowerBackgrounds(cams, (4.0,)), [mask], fabric)
    assert len(solved) == 2 * (len(pictures) - 1)  # the one without classes needs no field
    for store in stores:
        classes, probabilities = store.read(pictures.ids[3])
        assert classes.shape == (0,)
        assert torch.equal(probabilities, torch.ones(1, *SIZES[3]))
    assert not mask.read(pictures.ids[3], 3, SIZES[3]).any()


@pytest.mark.parametrize(
    ("name", "keys", "powers"),
    [
        ("psa/infer_colour", "cls", {"la": 4, "ha": 32}),
        ("psa/infer_cls", "cam_keys", {"la": 4, "ha": 32}),
        ("oc_cse/infer", "keys", {"crf_06": 6, "crf_10": 10, "crf_24": 24}),
        ("acr/infer", "keys", {"crf_06": 6, "crf_24": 24}),
    ],
)
def test_official_labels_of_all_alphas(tmp_path, fabric, name, keys, powers):
    golden = recipe.golden(name)
    classes = torch.from_numpy(golden[keys]).long()
    labels = torch.zeros(1, 20)
    labels[0, classes] = 1
    image = golden["img"] if "img" in golden else picture(f"{name}/image", 48, 61)
    data = Pictures([image.shape[:2]], labels.tolist(), [image])
    cams = CamStore(tmp_path / "cams")
    cams.write(data.ids[0], classes, torch.from_numpy(golden["cam"]))
    stores = [ScoreStore(tmp_path / official) for official in powers]
    refine(data, PowerBackgrounds(cams, tuple(powers.values())), stores, fabric)
    for store, official in zip(stores, powers, strict=True):
        _, probabilities = store.read(data.ids[0])
        difference = np.abs(probabilities.numpy() - golden[official].astype(np.float32)).max(0)
        assert (difference < 2e-3).mean() > 0.99


# --------------------------------------------------------------------------------------------------- what is done once


def test_what_is_in_all_stores_is_not_done_again(tmp_path, pictures, cams, fabric, monkeypatch):
    refined(tmp_path / "scores", pictures, cams, fabric)
    before = contents(tmp_path / "scores")
    monkeypatch.setattr(crf, "dense_crf", None)  # calling it would raise
    refined(tmp_path / "scores", pictures, None, fabric)
    assert contents(tmp_path / "scores") == before
    assert len(before) == 2 * len(pictures)


def test_what_is_missing_in_one_store_is_completed_with_the_same_numbers(tmp_path, pictures, cams, fabric, monkeypatch):
    _, high = refined(tmp_path / "scores", pictures, cams, fabric)
    before = contents(tmp_path / "scores")
    high.path(pictures.ids[2]).unlink()
    solve, solved = crf.dense_crf, []

    def counting(images, *arguments):
        solved.extend(images)
        return solve(images, *arguments)

    monkeypatch.setattr(crf, "dense_crf", counting)
    refined(tmp_path / "scores", pictures, cams, fabric)
    assert contents(tmp_path / "scores") == before
    [image] = solved
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pictures.pixels[2])


def test_workers_change_nothing(tmp_path, pictures, cams, fabric):
    for workers in (0, 2):
        stores = [ScoreStore(tmp_path / f"{workers}" / "scores"), MaskStore(tmp_path / f"{workers}" / "masks")]
        refine(pictures, PowerBackgrounds(cams, ALPHAS), stores, fabric, workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "0")) == 2 * len(pictures)


def test_stopped_between_two_images(tmp_path, pictures, cams, fabric):
    refined(tmp_path / "whole", pictures, cams, fabric)
    powers, asked = PowerBackgrounds(cams, ALPHAS), []

    def stopping(data, index):
        asked.append(index)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return powers(data, index)

    stores = [ScoreStore(tmp_path / "stopped" / f"{alpha:g}", half=False) for alpha in ALPHAS]
    with pytest.raises(KeyboardInterrupt):
        refine(pictures, stopping, stores, fabric)
    whole = contents(tmp_path / "whole")
    stopped = contents(tmp_path / "stopped")
    assert len(stopped) == 4
    assert stopped.items() <= whole.items()
    refined(tmp_path / "stopped", pictures, cams, fabric)
    assert contents(tmp_path / "stopped") == whole


def test_stopped_between_two_stores(tmp_path, pictures, cams, fabric, monkeypatch):
    refined(tmp_path / "whole", pictures, cams, fabric)
    write, written = ScoreStore.write, []

    def stopping(self, *arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, *arguments)
        written.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            refined(tmp_path / "stopped", pictures, cams, fabric)
    whole = contents(tmp_path / "whole")
    stopped = contents(tmp_path / "stopped")
    assert len(stopped) == 3
    assert stopped.items() <= whole.items()
    refined(tmp_path / "stopped", pictures, cams, fabric)
    assert contents(tmp_path / "stopped") == whole


# ----------------------------------------------------------------------------------------------------------- sharing


def shares():
    """What two processes on a CPU know of each other."""
    device = torch.device("cpu")
    return [SimpleNamespace(device=device, global_rank=rank, world_size=2, barrier=lambda: None) for rank in (0, 1)]


def test_two_processes_have_different_images(tmp_path, pictures, cams):
    done = []
    for fabric in shares():
        stores = refined(tmp_path / f"{fabric.global_rank}", pictures, cams, fabric)
        [found] = {tuple(names(store)) for store in stores}
        done.append(set(found))
    assert min(map(len, done)) >= len(pictures) // 2
    assert not done[0] & done[1]
    assert done[0] | done[1] == {f"{image_id}.npz" for image_id in pictures.ids}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_process_that_looks_late_misses_nothing(tmp_path, pictures, cams, fabric, order):
    """What the other process has written meanwhile must not change which images are whose."""
    processes = shares()
    for rank in order:
        refined(tmp_path / "shared", pictures, cams, processes[rank])
    refined(tmp_path / "alone", pictures, cams, fabric)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


# ----------------------------------------------------------------------------------------------------------- sentences


def cut_off(store, image_id):
    path = store.path(image_id)
    path.write_bytes(path.read_bytes()[:-40])


BAD = {
    "missing": (lambda store, i: store.path(i).unlink(), "is missing; run the inference first."),
    "cut off": (cut_off, "is damaged; remove it and run the stage that makes it again."),
    "empty": (lambda store, i: store.path(i).write_bytes(b""), "is damaged; remove it"),
    "foreign": (lambda store, i: store.path(i).write_text("not a zip file"), "is damaged; remove it"),
    "another size": (
        lambda store, i: store.write(i, torch.tensor([1, 2]), torch.rand(2, 18, 33)),
        "is (18, 33) pixels but the image is (33, 18); remove it and run the inference again.",
    ),
    "other classes": (
        lambda store, i: store.write(i, torch.tensor([0, 1]), torch.rand(2, 33, 18)),
        "has maps of the classes [0, 1] but the labels are [1, 2]; remove it and run the inference again.",
    ),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", BAD)
def test_bad_maps_are_named_in_one_sentence(tmp_path, pictures, cams, fabric, kind, workers):
    spoil, says = BAD[kind]
    spoil(cams, pictures.ids[1])
    with pytest.raises(InputError) as caught:
        refined(tmp_path / "scores", pictures, cams, fabric, workers=workers)
    message = str(caught.value)
    assert message.startswith(f"{cams.path(pictures.ids[1])} {says}")
    assert "\n" not in message
    assert message.endswith(".")
    assert f"{pictures.ids[1]}.npz" not in names(ScoreStore(tmp_path / "scores" / "4"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "psb"}, "CRF preset 'psb' is unknown; choose one of psa,"),
        ({"backend": "cuda"}, "CRF backend 'cuda' is unknown; choose auto, torch, numba or pydensecrf"),
        ({"preset": crf.settings(3, 3, 0, 13, 10)}, "must be above 0"),
        ({"preset": crf.settings(3, 3, 80, 13, 10, steps=-1)}, "steps is -1; it must be at least 0"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_settings_are_refused_before_anything_is_read(tmp_path, pictures, fabric, options, says, workers):
    def forbidden(data, index):
        raise AssertionError(f"{data.name} {index} was read")

    store = ScoreStore(tmp_path / "scores")
    with pytest.raises(InputError) as caught:
        refine(pictures, forbidden, [store], fabric, workers=workers, **options)
    assert says in str(caught.value)
    assert not store.folder.exists()
