"""The report of a run: one HTML page with settings, data, curves, scores, pictures, times, and limits of the numbers.

The report shows the files in the run's folder; the only thing that it computes is the order of the pictures. A run that
is not finished can have a report, too, which says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wsss_lib
from wsss_lib.data.dataset import Dataset
from wsss_lib.data.large import resize_labels
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union
from wsss_lib.runs import report
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.run import Run
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.runs.settings import Settings, read_settings
from wsss_lib.stages.store import CamStore, MaskStore, read_json
from wsss_lib.use.page import Page, check_page, package

NAME = "report.html"
"""Name of the report in the folder of a run."""

_MOST_RANKED = 1_000
"""Largest number of pictures that are ranked: the first ones of the split."""

_EACH = 3
"""Number of pictures in each group: the best, those around the median, and the worst."""

_MOST_BARS = 30
"""Largest number of classes for which a figure has bars."""

_POLICIES = {
    "": "There is no threshold.",
    "fixed": "The threshold was chosen before any mask was looked at.",
    "best on train": "The threshold that is best on the masks of train.",
    "best on val": "The threshold that is best on val itself: an upper bound, which papers often report.",
}
_STAGES = {
    "walk": "random walk",
    "walk-crf": "random walk, then CRF",
    "irn": "random walk of IRN",
    "segmentation": "network",
    "segmentation-crf": "network, then CRF",
}
_SHOWN = {"seeds", "cams", "classification", "refinements", "masks", "final", "data", "parameters", "versions", "made"}
"""Parts of ``metrics.json`` that have a section of their own in the report, or are not shown."""


def write_report(run: Run | str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run: one HTML page that needs no other file.

    Args:
        run: A run of any method, finished or not, or its folder.
        out: The file, ``*.html``; None for ``report.html`` in the folder of the run. An earlier report is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: The folder holds no run, its data or a file of it cannot be read, the packages that make the page
            are not installed, or the file has another ending, is not a report, or cannot be written.
    """
    run = run if isinstance(run, Run) else reopen(Path(run), guest=True)
    path = run.folder / NAME if out is None else Path(out)
    check_page(path)
    return _Report(run).page.write(path)


@dataclass(frozen=True)
class _Row:
    """The scores of one kind of masks."""

    split: str
    title: str
    scores: Mapping[str, Any]
    chosen: str = ""
    """Policy by which the threshold was chosen, as ``metrics.json`` names it; "" if there is no threshold."""


@dataclass(frozen=True)
class _Column:
    """A column of label maps beside the pictures."""

    title: str
    has: Callable[[str], bool]
    read: Callable[[int], np.ndarray]
    """A function from the position of an image to its label map ``(H, W)`` uint8 at the working size."""


class _Report:
    """The report of a run."""

    def __init__(self, run: Run) -> None:
        settings = run.settings
        self.run, self.settings, self.figures = run, settings, package("wsss_lib.show.figures")
        self.page = Page(f"{settings.notebook}: {settings.method} on {run.splits.fit.name}")
        path = run.folder / "metrics.json"
        self.metrics: dict[str, Any] = read_json(path) if path.is_file() else {}
        self.networks = [one.parent for one in sorted(run.folder.glob("segmentation/*/config.json"))]
        self.begin()
        self.show_settings()
        self.show_data()
        self.show_training()
        self.show_scores()
        self.show_pictures()
        self.show_times()
        self.show_limits()

    # ------------------------------------------------------------------------------------------------------ sections

    def begin(self) -> None:
        """Show the run, the missing parts, and the most important scores."""
        page, made = self.page, datetime.now(tz=UTC)
        page.text(f"Report of the run in {report.relative(self.run.folder)}, made by wsss_lib {wsss_lib.__version__}.")
        page.text(f"Date: {made:%Y-%m-%d %H:%M} UTC.")
        missing = [*self._missing()]
        if missing:
            page.text("The run is not finished. What is missing:")
            page.points(missing)
        rows = [row for row in self._rows() if row.chosen != "best on val"]
        for split in dict.fromkeys(row.split for row in rows):
            some = [row for row in rows if row.split == split]
            ends = {row.title: row for row in (some[0], some[-1])}
            parts = [f"{title} {_percent(row.scores['mean_iou'])} %" for title, row in ends.items()]
            page.text(f"Mean IoU on {split}: {', '.join(parts)}.")

    def _missing(self) -> Iterator[str]:
        for title, folder, settings in self._parts():
            done = len(_read_log(folder))
            wanted = settings.epoch or settings.config.epochs
            if settings.checkpoint is None and done < wanted:
                yield f"{title}: {done} of {wanted} epochs of training are done."
        if not self.metrics:
            yield "metrics.json, which the notebook or command writes at its end: nothing is scored yet."

    def show_settings(self) -> None:
        """Show the settings of the run."""
        settings, config, page = self.settings, self.settings.config, self.page
        usual = type(config).preset(settings.preset, config.backbone).to_dict()
        own = {
            "method": settings.method,
            "preset": settings.preset,
            "seed": settings.seed,
            "limit": settings.limit or "none",
            "precision": settings.precision,
            "devices": settings.devices,
        }
        page.heading("Settings")
        rows = [[name, str(value), ""] for name, value in own.items()]
        for name, value in config.to_dict().items():
            changed = name in usual and usual[name] != value
            rows.append([name, _value(value), _value(usual[name]) if changed else ""])
        page.table(["setting", "value", "the preset's value, where it differs"], rows)

    def show_data(self) -> None:
        """Show the number of images, the balance of the classes, and what is doubtful about the data."""
        page, run = self.page, self.run
        splits = {**({"fit": run.splits.fit} if run.split_folder("fit") == "fit" else {}), **run.splits.scored}
        page.heading("Data")
        page.text(f"The networks are trained on {run.splits.fit.name}.")
        rows = []
        for name, data in splits.items():
            empty = int((data.labels.sum(1) == 0).sum())
            counts = [len(data), len(data.classes), empty, len(data.masked)]
            rows.append([name, data.name, *map(str, counts)])
        page.table(["split", "data", "images", "classes", "images without a class", "images with a mask"], rows)
        classes = run.splits.classes
        counted = {name: data.labels.sum(0).int().tolist() for name, data in splits.items()}
        if len(classes) <= _MOST_BARS:
            shares = {name: [n / len(splits[name]) for n in numbers] for name, numbers in counted.items()}
            page.figure(
                self.figures.class_bars(classes, shares, "share of the images"), "The share of images of each class."
            )
        page.table(
            ["class", *(f"images, {name}" for name in splits)],
            [[name, *(str(numbers[k]) for numbers in counted.values())] for k, name in enumerate(classes)],
        )
        page.subheading("What is doubtful about the data")
        doubts = dict.fromkeys([*self.metrics.get("doubts", []), *report.doubts(run)])
        if doubts:
            page.points(doubts)
        else:
            page.text("Nothing was found.")

    def show_training(self) -> None:
        """Show the losses of all networks that were trained."""
        page = self.page
        page.heading("Training")
        for title, folder, settings in self._parts():
            page.subheading(title)
            history = _read_log(folder)
            if settings.checkpoint is not None:
                page.text("The network comes from a file of the authors; it was not trained here.")
            elif not settings.config.epochs:
                page.text("There is no training: the maps come from files.")
            elif not history:
                page.text("No epoch is finished yet.")
            else:
                last = {k: v for k, v in history[-1].items() if k not in ("epoch", "seconds", "learning_rate")}
                losses = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
                page.text(f"Epochs: {len(history)} of {settings.config.epochs}. In the last one: {losses}.")
                page.figure(self.figures.training_curve(history), f"The losses of {title} by epoch.")

    def show_scores(self) -> None:
        """Show the scores, each with the policy that chose its threshold."""
        page = self.page
        page.heading("Scores")
        rows = [*self._rows()]
        if not rows:
            splits = self.run.splits.scored.values()
            reason = "no result is scored yet" if any(s.has_masks for s in splits) else "the data has no masks"
            page.text(f"There are no scores: {reason}.")
        else:
            page.text("All pixels of a split are counted together, without the pixels that its masks leave undecided.")
            columns = ("mean_iou", "mean_precision", "mean_recall")
            lines = []
            for row in rows:
                policy = _POLICIES.get(row.chosen, row.chosen)
                lines.append([row.split, row.title, *(_percent(row.scores.get(c)) for c in columns), policy])
            head = ["split", "result", "mIoU %", "precision %", "recall %", "how the threshold was chosen"]
            page.table(head, lines)
            self._show_classes(rows)
        recognised = self.metrics.get("classification", {})
        if recognised:
            page.subheading("Recognition of whole images")
            page.text("The mean average precision is 100 % if the images of every class are ranked before all others.")
            page.table(
                ["split", "mean average precision %"],
                [[split, _percent(row["mean_average_precision"])] for split, row in recognised.items()],
            )
        for name, content in self.metrics.items():
            if name not in _SHOWN:
                self._show_more(name.replace("_", " "), content)

    def _show_classes(self, rows: Sequence[_Row]) -> None:
        split = rows[-1].split
        fair = [row for row in rows if row.split == split and row.chosen != "best on val"]
        chosen = {row.title: row.scores["classes"] for row in fair}
        if not chosen:
            return
        classes = list(next(iter(chosen.values())))
        page = self.page
        page.subheading(f"IoU of each class on {split}")
        if len(classes) <= _MOST_BARS:
            values = {n: [_number(found[c]["iou"]) for c in classes] for n, found in [*chosen.items()][-3:]}
            page.figure(self.figures.class_bars(classes, values), f"The IoU of each class on {split}.")
        page.table(
            ["class", *(f"{name}, %" for name in chosen)],
            [[name, *(_percent(found[name]["iou"]) for found in chosen.values())] for name in classes],
        )

    def _show_more(self, title: str, content: Any) -> None:
        """Show another table of numbers that a notebook has measured."""
        rows = content if isinstance(content, Mapping) else {}
        rows = {
            name: row for name, row in rows.items() if isinstance(row, Mapping) and all(map(_is_number, row.values()))
        }
        columns = [*dict.fromkeys(column for row in rows.values() for column in row)]
        if columns:
            self.page.subheading(title)
            lines = [
                [str(n), *(f"{row[c]:.4g}" if row.get(c) is not None else "–" for c in columns)]
                for n, row in rows.items()
            ]
            self.page.table(["", *(column.replace("_", " ") for column in columns)], lines)

    def show_pictures(self) -> None:
        """Show pictures with their maps and masks."""
        page, scored = self.page, self.run.splits.scored
        page.heading("Pictures")
        names = [*scored][::-1]
        split = next((name for name in names if scored[name].has_masks), names[0])
        data, columns, cams = scored[split], self._columns(split), self._cams(split)
        if not columns:
            page.text("There are no maps and no masks yet.")
            return
        ready = [i for i in range(len(data)) if all(column.has(data.ids[i]) for column in columns)]
        ranked = [i for i in ready if data.has_mask(i)][:_MOST_RANKED]
        if not ready:
            page.text(f"No image of {split} has all its maps and masks yet.")
            return
        if not ranked:
            page.text(f"{split} has no masks, so the first images are shown.")
            self._show_rows(data, dict.fromkeys(ready[: 2 * _EACH], ""), columns, cams)
            return
        last = columns[-1]
        scores = [_image_iou(last.read(i), data, i) for i in ranked]
        order = [ranked[i] for i in np.argsort(scores, kind="stable")]
        score = dict(zip(ranked, scores, strict=True))
        among = f"{len(ranked)} images" if len(ranked) == len(data.masked) else f"the first {len(ranked)} with a mask"
        page.text(
            f"Images of {split}, ordered by the mean IoU of “{last.title}” over the classes that the image's mask or "
            f"the result shows; {among} were ranked."
        )
        shown: set[int] = set()
        middle = max(0, (len(order) - _EACH) // 2)
        for title, some in {
            "Best": order[::-1][:_EACH],
            "Median": order[middle : middle + _EACH],
            "Worst": order[:_EACH],
        }.items():
            some = [i for i in some if i not in shown]
            shown |= {*some}
            if some:
                page.subheading(title)
                self._show_rows(data, {i: f"{100 * score[i]:.0f} %" for i in some}, columns, cams)
        page.figure(self.figures.class_legend(data.classes), "The colours of the classes.")

    def _show_rows(
        self, data: Dataset, indices: Mapping[int, str], columns: Sequence[_Column], cams: CamStore | None
    ) -> None:
        show, rows = self.figures, {}
        for index, remark in indices.items():
            image, image_id = data.image(index), data.ids[index]
            row = [image]
            if cams is not None:
                _, maps = cams.read(image_id)
                heat = maps.amax(0).numpy() if len(maps) else np.zeros(maps.shape[1:], np.float32)
                row.append(show.overlay(image, heat))
            row += [show.overlay_mask(image, column.read(index)) for column in columns]
            row += [show.overlay_mask(image, data.mask(index))] if data.has_masks else []
            rows[f"{image_id}\n{remark}".strip()] = row
        titles = ["image", *(["CAM"] if cams is not None else []), *(column.title for column in columns)]
        titles += ["truth"] if data.has_masks else []
        ids = ", ".join(data.ids[index] for index in indices)
        self.page.figure(
            show.table_of_pictures(rows, titles, classes=data.classes),
            f"Images {ids}, each with {', '.join(titles[1:])}.",
        )

    def show_times(self) -> None:
        """Show the times of the stages, the device, and the versions."""
        page = self.page
        page.heading("Times")
        rows = []
        for title, folder, _ in self._parts():
            path = folder / "seconds.json"
            seconds = read_json(path) if path.is_file() else {}
            rows += [[title, stage, f"{value:,.1f}"] for stage, value in seconds.items()]
        if rows:
            total = sum(float(row[-1].replace(",", "")) for row in rows)
            page.table(["part", "stage", "seconds"], [*rows, ["all", "", f"{total:,.1f}"]])
            page.text("The times are sums over all starts of a run. They may include delays by other programs.")
        else:
            page.text("No stage has been timed yet.")
        if self.metrics:
            page.text(f"Device: {self.metrics['device']}. Peak memory: {self.metrics['peak_memory_mib']:,} MiB.")
            page.text("Versions: " + ", ".join(f"{n} {v}" for n, v in self.metrics["versions"].items()) + ".")

    def show_limits(self) -> None:
        """Show what the numbers do not say."""
        settings, scored = self.settings, self.run.splits.scored
        lines = [
            "The scores are those of one run with one random seed; other random seeds give other scores.",
            "A mean over all pixels says nothing about one image: see the worst images above.",
        ]
        if not isinstance(self.run, SegmentationRun):
            lines.append(
                "Maps, CAM seeds and the masks made from them use the image-level labels of the scored images. They "
                "say where a class is, never whether it is there. Only the final network works without labels."
            )
        if any(row.chosen == "best on val" for row in self._rows()):
            lines.append("A score with the threshold that is best on val cannot be reached without the masks of val.")
        if scored["train"].has_masks:
            lines.append(
                "The masks of train chose the threshold and the best refinement, so the scores on train are optimistic."
            )
        else:
            lines.append("train has no masks, so no threshold could be chosen with them.")
        if not any(data.has_masks for data in scored.values()):
            lines.append("Without masks the result cannot be scored: look at the pictures.")
        if settings.limit:
            lines.append(f"Only the first {settings.limit} images of every split were used.")
        if settings.preset == "toy":
            lines.append("The toy world is drawn; its scores cannot be compared with scores on photographs.")
        self.page.heading("What the numbers do not say")
        self.page.points(lines)

    # -------------------------------------------------------------------------------------------- what the run has

    def _parts(self) -> Iterator[tuple[str, Path, Settings]]:
        """Yield the title, the folder and the settings of every network that was trained for the run."""
        maker = self._map_maker()
        if maker is not None and maker is not self.run:
            yield f"{maker.settings.method}, whose maps are refined", maker.folder, maker.settings
        yield self.settings.method, self.run.folder, self.settings
        for folder in self.networks:
            yield f"final network {folder.name}", folder, read_settings(folder)

    def _map_maker(self) -> CamRun | None:
        """Return the run that makes the maps; None if there is none."""
        run = self.run
        if isinstance(run, RefinementRun):
            return run.cam_run
        return run if isinstance(run, CamRun) else None

    def _rows(self) -> Iterator[_Row]:
        """Yield the scores of every kind of masks."""
        metrics, networks = self.metrics, [(folder, self._results(folder)) for folder in self.networks]
        for split in self.run.splits.scored:
            seen = set()
            for row in self._cam_scores().get(split, {}).values():
                chosen = row["threshold_chosen"]
                if chosen not in seen:
                    seen.add(chosen)
                    yield _Row(split, f"CAM seed at {row['threshold']:.2f}", row, chosen)
            results = {**metrics.get("refinements", {}).get(split, {}), **metrics.get("masks", {}).get(split, {})}
            for name, row in results.items():
                if name not in ("cam", "seed") and isinstance(row, Mapping) and "mean_iou" in row:
                    yield _Row(split, _title(name), row)
            for folder, found in networks:
                for name, row in found.get(split, {}).items():
                    title = f"final {_title(name)}"
                    title += f" ({folder.name})" if len(networks) > 1 else ""
                    yield _Row(split, title, row)

    def _cam_scores(self) -> Mapping[str, Any]:
        """Return the scores of the CAM seeds by split; their name in version 0.1.0 was ``seeds``."""
        found: Mapping[str, Any] = self.metrics.get("cams") or self.metrics.get("seeds") or {}
        return found

    def _results(self, folder: Path) -> Mapping[str, Any]:
        path = folder / "metrics.json"
        found: Mapping[str, Any] = read_json(path).get("masks", {}) if path.is_file() else {}
        return found

    def _cams(self, split: str) -> CamStore | None:
        maker = self._map_maker()
        return maker.cams(split) if maker is not None and maker.cams(split).folder.is_dir() else None

    def _columns(self, split: str) -> list[_Column]:
        """Return the label maps that the run has made of a split, in the order in which they are made."""
        data, cams, found = self.run.data(split), self._cams(split), []
        if cams is not None:
            rows = self._cam_scores()
            row = rows.get(split) or next(iter(rows.values()), None)
            threshold = row["swept"]["threshold"] if row else report.FIXED_THRESHOLD

            def read_cam_seed(index: int) -> np.ndarray:
                classes, maps = cams.read(data.ids[index])
                return cam_label(maps, classes, threshold).numpy()

            found.append(_Column(f"CAM seed at {threshold:.2f}", cams.__contains__, read_cam_seed))
        stores = {name: self.run.masks(name, split) for name in self._masks()}
        title = "final network" if len(self.networks) == 1 else "final network {}"
        for folder in self.networks:
            place = folder / "masks" / "segmentation" / self.run.split_folder(split)
            stores[title.format(folder.name)] = MaskStore(place)
        for name, store in stores.items():
            if store.folder.is_dir():

                def read_mask(index: int, store: MaskStore = store) -> np.ndarray:
                    mask = store.read(data.ids[index], len(data.classes), data.own_size(index)).numpy()
                    return resize_labels(mask, data.size(index))

                found.append(_Column(_title(name), store.__contains__, read_mask))
        return found

    def _masks(self) -> list[str]:
        """Return the names of the masks to show: those of the network, or the best on train of the last refinement."""
        if isinstance(self.run, SegmentationRun):
            return ["segmentation", "segmentation-crf"]
        there = sorted(
            {path.name for path in self.run.folder.glob("masks/*") if not path.name.startswith(("cam-", "seed-"))}
        )
        last = [name for name in there if name.startswith(self.run.final_masks)] or there
        scores = self.metrics.get("refinements", {}).get("train", {})
        means = {name: (scores.get(name) or {}).get("mean_iou") for name in last}
        known = {name: mean if isinstance(mean, int | float) else None for name, mean in means.items()}
        return [report.choose_masks(known)] if known else []


def _read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs in ``log.jsonl``, up to the first damaged line."""
    history: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in (folder / "log.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            history.append({name: _number(value) for name, value in row.items()})
    return history


def _image_iou(found: np.ndarray, data: Dataset, index: int) -> float:
    """Return the mean IoU of an image over the classes that occur; 0 if its mask leaves every pixel undecided."""
    truth, labels = torch.from_numpy(data.mask(index)), torch.from_numpy(found)
    mean = float(class_mean(intersection_over_union(confusion_matrix(truth, labels, len(data.classes) + 1))))
    return 0.0 if np.isnan(mean) else mean


def _title(name: str) -> str:
    power = name.removeprefix("crf-")
    return _STAGES.get(name, f"CRF, alpha {power}" if power != name else name)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any, missing: float = float("nan")) -> float:
    return missing if value is None else value


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
