"""Pictures: what is drawn, and in which format."""

import io

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from wsss_lib.show import figures

PICTURE = np.full((10, 14, 3), 100, np.uint8)
CAM = np.linspace(0, 1, 140, dtype=np.float32).reshape(10, 14)
HISTORY = [{"epoch": i, "loss": 1 / i, "other": 0.5, "learning_rate": 0.1, "seconds": 1.0} for i in (1, 2, 3)]


def decoded(content, kind):
    picture = Image.open(io.BytesIO(content))
    assert picture.format == kind
    return np.asarray(picture.convert("RGB"))


def all_figures():
    return {
        "grid": (figures.grid([PICTURE, CAM, Image.fromarray(PICTURE)], ["a", "b", "c"], columns=2), 4),
        "one": (figures.grid([PICTURE]), 1),
        "table": (figures.table_of_pictures({"x": [PICTURE, CAM], "y": [CAM, PICTURE]}, ["a", "b"]), 4),
        "training": (figures.training_curve(HISTORY), 1),
        "thresholds": (figures.threshold_curves([0.1, 0.2], {"a": np.array([1, 2])}, marked={"best": 0.2}), 1),
        "intervals": (figures.interval_figure({"a": (1, 0.5, 2), "b": (0, -1, 1)}, "points"), 1),
        "bars": (figures.class_bars(["cat", "dog"], {"a": [0.5, float("nan")], "b": [0.1, 1]}), 1),
        "legend": (figures.class_legend(["cat", "dog"]), 0),
    }


@pytest.mark.parametrize("name", all_figures())
def test_figures_render_in_one_format(name):
    figure, axes = all_figures()[name]
    assert isinstance(figure, figures.Plot)
    assert len(figure.axes) == axes
    assert decoded(figure.png(), "PNG").std() > 0
    shown = {"PNG": figure._repr_png_(), "JPEG": figure._repr_jpeg_()}
    [(kind, content)] = [(kind, content) for kind, content in shown.items() if content is not None]
    assert kind == ("JPEG" if name in ("grid", "one", "table") else "PNG")
    assert decoded(content, kind).shape == decoded(figure.png(), "PNG").shape


def test_no_figure_is_kept_open():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    all_figures()
    assert pyplot.get_fignums() == before


def test_titles_stand_on_top_and_names_on_the_left():
    figure = figures.table_of_pictures({"x": [PICTURE, CAM], "y": [CAM, PICTURE]}, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["x", "", "y", ""]
    assert [axis.get_title() for axis in figures.grid([CAM, CAM], ["a", "b"]).axes] == ["a", "b"]


def test_every_loss_has_a_line():
    [axis] = figures.training_curve(HISTORY).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axis.lines} == {
        "loss": [1, 0.5, 1 / 3],
        "other": [0.5, 0.5, 0.5],
    }


def test_maps_are_shown_on_a_fixed_scale():
    [axis] = figures.grid([CAM / 2]).axes
    assert axis.images[0].get_clim() == (0, 1)


def test_colours_of_masks():
    mask = np.array([[0, 1, 2, 15, 255]], np.uint8)
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192)]
    assert [tuple(pixel) for pixel in figures.colour_mask(mask)[0]] == expected


def test_colours_over_an_image():
    picture = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    half = figures.overlay_mask(Image.fromarray(picture), mask, 0.5)
    assert half.dtype == np.uint8
    assert [tuple(pixel) for pixel in half[0]] == [(100, 100, 100), (114, 50, 50), (162, 162, 146)]
    np.testing.assert_array_equal(figures.overlay_mask(picture, mask, 0.0), picture)
    np.testing.assert_array_equal(figures.overlay_mask(picture, mask, 1.0)[0, 1:], figures.colour_mask(mask)[0, 1:])


def test_heat_over_an_image():
    np.testing.assert_array_equal(figures.overlay(PICTURE, CAM, 0.0), PICTURE)
    hot = figures.overlay(PICTURE, CAM, 1.0).astype(int)
    assert hot[0, 0].sum() < 20  # inferno begins black and ends light yellow
    assert hot[-1, -1].sum() > 600
    np.testing.assert_array_equal(
        figures.overlay(PICTURE, CAM * 0 + 9, 1.0), figures.overlay(PICTURE, CAM * 0 + 1, 1.0)
    )


NAMES = [r"a$\b$c", "$", r"x\$y$", 200 * "n", "_hidden", "\udcff"]
"""Names of classes that are not formulas, too long, hidden from a legend, or not UTF-8."""


def written(figure):
    """All that is written in a figure once it is drawn."""
    figure.png()
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_written_letter_by_letter_and_not_too_long(name):
    seen = figures.shortened(name)
    for figure in (figures.grid([PICTURE], [name]), figures.table_of_pictures({name: [PICTURE]}, [name])):
        texts = written(figure)
        assert seen in [text.get_text() for text in texts]
        assert not any(text.get_parse_math() for text in texts)
        assert decoded(figure.png(), "PNG").shape[1] < 800
    assert len(seen) <= 60
    assert (seen == name) is (name in NAMES[:3] or name == "_hidden")
    short = figures.shortened(name, 20)
    for figure in (figures.class_legend([name, "b"]), figures.class_bars([name, "b"], {"IoU": [0.5, 0.2]})):
        texts = written(figure)
        assert short in [text.get_text() for text in texts]
        assert not any(text.get_parse_math() for text in texts)


def test_long_lines_lose_their_middle():
    assert figures.shortened("0123456789", 6) == "012…89"
    assert figures.shortened("error 1.5\ninstead of 2.5", 12) == "error 1.5\ninstead… 2.5"


def test_an_empty_list_of_pictures_gives_a_figure():
    for figure in (figures.grid([]), figures.grid([], []), figures.table_of_pictures({}, ["image"])):
        assert [text.get_text() for text in written(figure)] == ["no picture to show"]


@pytest.mark.parametrize("values", [[[-2.0, 0.0, 1.0, 2.0]], [[0.0, 0.0]]])
def test_a_signed_map_shows_where_zero_is(values):
    values = np.array(values)
    red, _, blue = (figures.signed_map(values)[..., i].astype(int) for i in range(3))
    assert (np.sign(np.fix((red - blue) / 5)) == np.sign(values)).all()  # nearly white may have a tint
    assert figures.signed_map(values)[values == 0].min() > 240


def test_a_signed_map_uses_one_scale_for_both_signs():
    weak, strong = figures.signed_map(np.array([[-1.0, 4.0]]))[0].astype(int)
    assert weak.min() > strong.min()
