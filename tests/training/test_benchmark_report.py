"""The benchmark's report from made-up results: complete, with holes, and with hostile text."""

import copy
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.benchmark import paper
from training.benchmark.report import MAX_FIGURE_BYTES, draw_case, html, markdown
from training.benchmark.report_cells import ABOVE, BELOW, CONTROLS
from training.benchmark.report_tables import tables

METHODS = ("gradient", "grad_cam", "bbmp", "mask_generator")
PRESETS = ("adversarial_tv", "single_2_w", "single_2_w_tv")


def entry(value, gain):
    middle = {"iou_90": gain, "iou_90_interval": [gain - 0.01, gain + 0.01]}
    middle |= {"total_auc": gain, "total_auc_interval": [gain - 0.02, gain + 0.02]}
    return {
        "iou": [value] * 5,
        "iou_interval": [[value - 0.02, value + 0.02]] * 5,
        "total_auc": value + 0.1,
        "total_auc_interval": [value, value + 0.2],
        "partial_auc": value + 0.05,
        "partial_auc_interval": [value, value + 0.1],
        "conventions": {"mean_curve": [value, value / 2], "per_image": [value + 0.01, value / 2]},
        "auprc": value,
        "pointing": 0.5,
        "energy": 0.25,
        "gain_over_prior": None if gain is None else middle,
    }


def complete(presets=PRESETS, methods=METHODS):
    names = [*presets, *methods]
    rows = {name: entry(0.2111, -0.05) for name in names}
    rows |= {f"{name}+aug": entry(0.3222, 0.05) for name in names if name != "bbmp"}
    rows |= {f"blur:{name}+aug": entry(0.2777, 0.005) for name in names if name != "bbmp"}
    rows |= {name: entry(0.2444, -0.2) | {"gain_over_prior": None} for name in CONTROLS}
    generators = {
        name: {
            "similar_auc_interval": [0.97, 0.99], "flip_rate_interval": [0.85, 0.95],
            "similar_auc": 0.9876, "adversarial_auc": 0.9543, "kept_rate": 0.99, "flip_rate": 0.91,
            "flip_rate_positive": 0.92, "psnr_x_s": 44.44, "ssim_x_s": 0.9911, "psnr_x_a": 41.11, "ssim_x_a": 0.9822,
            "psnr_s_a": 48.88, "ssim_s_a": 0.9933, "transfer": 0.123, "steps": 3000, "settings": {"batch": 8},
        }
        for name in presets
    }  # fmt: skip
    if "adversarial_tv" in generators:
        generators["adversarial_tv"] |= {"similar_auc": None, "psnr_x_s": None, "ssim_x_s": None, "ssim_s_a": None}
    faithful = {"deletion": 0.1, "insertion": 0.7, "road": None, "max_sensitivity": 0.2, "randomisation": 0.03}
    timing = {name: {"batch_1": 0.5, "batch_16": 0.25, "peak_bytes": 3 * 2**20} for name in methods}
    timing["similar_adversarial"] = {"batch_1": 0.125, "batch_16": 0.05, "peak_bytes": 2**20}
    return {
        "command": "python -m training benchmark --data phantom --quick",
        "profile": "quick",
        "commit": "0123abc",
        "data": {
            "spec": "phantom", "size": 64, "images": 30, "patients": 30, "boxed": 12, "train": 20, "validation": 4,
            "test": 6, "classes": ["normal", "opacity"], "problem_counts": {"image file missing": 23},
            "problems": [["image file missing", f"{i}.png", "no such file"] for i in range(23)],
        },
        "classifier": {"architecture": "resnet20", "auc": 0.9321, "interval": [0.9, 0.96], "settings": {"epochs": 2}},
        "generators": generators,
        "localisation": {
            "percentiles": [80, 85, 90, 95, 98],
            "parts": {"all": {"images": 6, "rows": rows}, "small": {"images": 2, "rows": rows}, "AP": {"images": 0}},
            "best": "single_2_w_tv+aug",
            "ahead": {
                "grad_cam": {"iou_90": 0.1, "iou_90_interval": [0.05, 0.15], "total_auc": 0.1,
                             "total_auc_interval": [0.01, 0.2]},
                "location_prior": {"iou_90": 0.01, "iou_90_interval": [-0.05, 0.07], "total_auc": -0.1,
                                   "total_auc_interval": [-0.2, -0.01]},
            },
        },
        "faithfulness": dict.fromkeys(methods, faithful),
        "timing": timing,
        "figures": [{"file": "figures/0.png", "caption": "case 0"}],
    }  # fmt: skip


def table(result, start):
    return next(t for t in tables(result) if t.title.startswith(start))


def line(result, start, name):
    return next(entry for entry in table(result, start).lines if entry.name == name)


class Reader(HTMLParser):
    """Checks that elements nest, and notes every address that a browser would load."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.rows = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in {"src", "href", "srcset", "data", "action"}]
        if tag == "tr":
            self.rows.append(0)
        if tag in {"td", "th"}:
            self.rows[-1] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read_html(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_every_table_of_the_paper_is_there_beside_ours():
    text = markdown(complete())
    for number in ("IV", "V", "VI", "VII", "VIII", "IX", "X", "XI"):
        assert f"## Table {number}: " in text
    row = line(complete(), "Table VI:", "Single_2 (W,TV)")
    assert [cell.text for cell in row.cells] == ["0.211"] * 5 + ["-0.050"]
    assert [cell.paper for cell in row.cells] == ["0.248", "0.250", "0.232", "0.173", "0.097", ""]
    assert row.cells[0].small == "0.191 to 0.231"
    assert "0.211 (0.191 to 0.231) *0.248*" in text


@pytest.mark.parametrize("start", ["Table VI:", "Table VII:", "Table VIII:", "Table IX:", "Table X:", "Table XI:"])
def test_controls_stand_in_every_localisation_table(start):
    kinds = [entry.kind for entry in table(complete(), start).lines]
    assert kinds[-5:] == ["control"] * 5
    names = [entry.name for entry in table(complete(), start).lines]
    for index, kind in enumerate(kinds):
        if kind == "blur":
            assert names[index - 1].endswith("+ augmentation")
    assert "blur" in kinds


def test_a_gain_is_marked_only_where_its_interval_excludes_zero():
    marks = {entry.name: entry.cells[-1].mark for entry in table(complete(), "Table X:").lines}
    assert marks["Gradient"] == BELOW
    assert marks["Gradient + augmentation"] == ABOVE
    assert marks["control: Gradient under a Gaussian of equal bandwidth"] == ""
    words = " ".join(table(complete(), "Localisation in words").notes)
    assert "not ahead of control: location prior" in words
    assert re.search(r"IoU@90, above the location prior: .*GradCAM \+ augmentation.*IoU@90, below", words)


def test_intervals_that_touch_zero_are_not_marked():
    result = complete()
    gain = result["localisation"]["parts"]["all"]["rows"]["gradient+aug"]["gain_over_prior"]
    gain["iou_90_interval"] = [0.0, 0.1]
    assert line(result, "Table X:", "Gradient + augmentation").cells[-1].mark == ""


def test_a_row_without_a_value_says_so_and_why():
    result = complete() | {"absent": {"bbmp": "stopped: CUDA out of memory"}}
    del result["localisation"]["parts"]["all"]["rows"]["bbmp"]
    row = line(result, "Table VIII:", "BBMP")
    assert [cell.text for cell in row.cells] == ["-"] * 5 + [""]
    assert row.cells[0].paper == "0.233"
    notes = " ".join(table(result, "Table VIII:").notes)
    assert "CUDA out of memory): BBMP." in notes
    assert "not part of this run): SmoothGrad, Input x Gradient" in notes


def test_a_dataset_without_boxes_leaves_localisation_out_and_keeps_the_rest():
    text = markdown(complete() | {"localisation": None})
    assert "Left out: the data mark no lesions" in text
    assert "## Table VI:" not in text
    assert "## Table IV:" in text
    assert "## Time and memory" in text


def holes(tree):
    """Copies of a tree, each with one value null or absent."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in parts:
        for changed in (None, *holes(value)):
            copied = copy.copy(tree)
            copied[key] = changed
            yield copied
        if isinstance(tree, dict):
            yield {k: v for k, v in tree.items() if k != key}


@pytest.mark.slow
def test_no_missing_or_null_part_breaks_a_report(tmp_path):
    result = complete(presets=("single_2_w_tv",), methods=("grad_cam",))
    parts = result["localisation"]["parts"]
    parts["all"]["rows"] = {name: parts["all"]["rows"][name] for name in ("grad_cam+aug", "location_prior")}
    parts["small"]["rows"] = {"grad_cam": parts["all"]["rows"]["grad_cam+aug"]}
    result["data"]["problems"] = result["data"]["problems"][:1]
    whole = markdown(result)
    damaged = [markdown(hole) for hole in holes(result)]
    assert len(damaged) > 200
    assert sum(text != whole for text in damaged) > 0.8 * len(damaged)
    assert "# Benchmark on unnamed data" in markdown({})
    read_html(html({}, tmp_path))


def test_numbers_that_are_none_are_a_dash():
    result = complete()
    rows = result["localisation"]["parts"]["all"]["rows"]
    rows["gradient"]["iou"] = [float("nan"), float("inf"), "x", True]
    assert [cell.text for cell in line(result, "Table VIII:", "Gradient").cells][:5] == ["-"] * 5


def test_times_are_beside_the_papers_with_the_ratio_to_grad_cam():
    row = line(complete(), "Time and memory", "Similar/adversarial")
    assert [cell.text for cell in row.cells] == ["0.125", "0.25", "0.05", "0.20", "1"]
    ours = line(complete(), "Table XI:", "Single_2 (W,TV)").cells[-1]
    assert (ours.text, ours.paper) == ("0.125", "0.05")
    alone = complete()
    del alone["timing"]["grad_cam"]
    assert line(alone, "Time and memory", "Gradient").cells[1].text == "-"
    assert table(alone, "Time and memory").notes


def test_problems_are_counted_and_the_first_are_named():
    notes = table(complete(), "Problems").notes
    assert line(complete(), "Problems", "image file missing").cells[0].text == "23"
    assert notes[0] == "image file missing - 0.png: no such file"
    assert len(notes) == 21
    assert notes[-1] == "and 3 more"


def test_the_html_file_is_whole_and_loads_nothing(tmp_path):
    draw_case(tmp_path / "figures" / "0.png", [("original", np.zeros((8, 8)))])
    reader = read_html(html(complete(), tmp_path))
    loaded = [address for address in reader.addresses if not address.startswith("#")]
    assert len(loaded) == 1
    assert loaded[0].startswith("data:image/png;base64,")
    assert "is not there or no picture" not in html(complete(), tmp_path)
    assert "0.png is not there or no picture" in html(complete(), tmp_path / "elsewhere")


def test_every_row_of_a_table_has_as_many_cells_as_its_head(tmp_path):
    for found in tables(complete()):
        assert all(len(entry.cells) == len(found.columns) for entry in found.lines), found.title
    lines = markdown(complete()).splitlines()
    for before, after in itertools.pairwise(lines):
        if before.startswith("|") and after.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", before)) == len(re.findall(r"(?<!\\)\|", after))
    assert read_html(html(complete(), tmp_path)).rows


def test_text_from_the_data_is_text_and_not_markup(tmp_path):
    evil = "<script>alert(1)</script> a|b `c` \n# x"
    result = complete()
    result["data"]["problems"] = [[evil, evil, evil]]
    result["data"]["problem_counts"] = {evil: 1}
    result["command"] = result["figures"][0]["caption"] = result["data"]["spec"] = evil
    result["generators"] = {evil: {"steps": 1}}
    page = html(result, tmp_path)
    assert "<script" not in page
    read_html(page)
    assert "\n# x" not in markdown(result)
    rows = [line for line in markdown(result).splitlines() if line.startswith("|")]
    assert any(r"\<script>alert(1)\</script>" in row or r"a\|b" in row for row in rows)
    assert not any("a|b" in row or re.search(r"(?<!\\)<script", row) for row in rows)


def test_settings_are_in_the_report():
    settings = re.search(r"```json\n(.*?)\n```", markdown(complete()), re.DOTALL)
    found = json.loads(settings[1])
    assert found["classifier"] == {"epochs": 2}
    assert found["single_2_w_tv"] == {"batch": 8}


def test_generated_images_are_beside_the_papers_with_intervals():
    row = line(complete(), "Table IV:", "Single_2 (W,TV)").cells
    assert [(c.text, c.small, c.paper) for c in row] == [
        ("0.988", "0.970 to 0.990", "0.998"),
        ("0.954", "", "0.952"),
    ]
    quality = line(complete(), "Table V:", "Single_2 (W,TV)").cells
    assert [c.text for c in quality] == ["0.991", "44.44", "0.982", "41.11", "0.993", "48.88"]
    assert [c.paper for c in quality] == ["0.995", "43.88", "0.994", "42.63", "0.999", "51.93"]
    decisions = line(complete(), "Decisions", "Single_2 (W,TV)").cells
    assert [(c.text, c.small) for c in decisions] == [
        ("0.990", ""), ("0.910", "0.850 to 0.950"), ("0.920", ""), ("-", ""), ("0.123", ""),
        ("3000", ""),
    ]  # fmt: skip


def test_a_generator_of_our_own_joins_the_generators_tables():
    result = complete()
    result["generators"]["cyclic"] = {"similar_auc": 0.5}
    rows = result["localisation"]["parts"]["all"]["rows"]
    rows["cyclic"] = rows["cyclic+aug"] = entry(0.4, 0.1)
    for start in ("Table IV:", "Table VI:", "Table VII:", "Table X:", "Table XI:"):
        assert line(result, start, "cyclic")
    assert line(result, "Table VI:", "cyclic + augmentation").cells[0].text == "0.400"


def test_the_papers_tables_agree_with_each_other():
    plain = {row: values for row, values in paper.TABLE_X.items() if row in paper.TABLE_VIII}
    assert all(paper.TABLE_VIII[row] == values for row, values in plain.items())
    for row in ("single_2_w_tv", "single_2_w_tv+aug"):
        assert paper.TABLE_VI[row] == paper.TABLE_VIII[row] == paper.TABLE_X[row]
        assert paper.TABLE_VII[row] == paper.TABLE_IX[row][:2] == paper.TABLE_XI[row][:2]
    differing = [row for row in paper.TABLE_IX if row in paper.TABLE_XI and paper.TABLE_IX[row] != paper.TABLE_XI[row]]
    assert differing == ["grad_cam"]
    used = {row.removesuffix("+aug") for t in range(4, 12) for row in getattr(paper, f"TABLE_{ROMAN[t]}")}
    assert used <= set(paper.NAMES)


ROMAN = {4: "IV", 5: "V", 6: "VI", 7: "VII", 8: "VIII", 9: "IX", 10: "X", 11: "XI"}


def as_printed(name):
    """The numbers of a table of paper.py in the order in which the paper prints them."""
    rows = getattr(paper, f"TABLE_{name}")
    for row, values in rows.items():
        if name in {"VII", "X", "XI"} and row.endswith("+aug"):
            continue
        flat = [v for pair in values.values() for v in pair] if isinstance(values, dict) else values
        augmented = rows.get(f"{row}+aug")
        if name == "VII":
            flat = [*values, *augmented]
        elif name in {"X", "XI"} and augmented:
            flat = itertools.chain.from_iterable(zip(values, augmented, strict=True))
        yield from (v for v in flat if v is not None)


def test_the_papers_numbers_are_those_of_the_reconstruction(shared_data):
    text = (shared_data.parent / "method.md").read_text()
    section = text[text.index("**Table IV**") : text.index("Inconsistencies in the paper")]
    parts = re.split(r"\*\*Table ([IVX]+)\*\*", section)
    printed = {
        name: re.findall(r"(?<![\w.])\d*\.\d+|(?<=\| )1\.0", body)
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    for name, numbers in printed.items():
        assert list(as_printed(name)) == list(map(float, numbers)), name


@pytest.mark.slow
def test_a_case_is_drawn_with_its_boxes_within_the_size_limit(tmp_path):
    slope = np.linspace(0, 1, 224)[None] * np.linspace(0, 1, 224)[:, None]
    names = ["original", "similar", "adversarial", "difference", *(f"map {i}" for i in range(9))]
    path = tmp_path / "deep" / "case.png"
    mask = np.zeros((224, 224), np.bool_)
    mask[56:168, 56:168] = True
    outlines = []
    for truth in ([(0.25, 0.25, 0.5, 0.5)], mask, np.zeros_like(mask), ()):
        draw_case(path, [(name, slope) for name in names[:5]], truth)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        outlines.append((pixels[..., 1] > 150) & (pixels[..., 0] < 80))
    boxes, outline, empty, none = (int(drawn.sum()) for drawn in outlines)
    assert boxes > 5 * 200
    assert outline > 5 * 200
    assert empty == none == 0
    noise = np.random.default_rng(0)
    draw_case(path, [(name, noise.random((224, 224))) for name in names[:12]])
    assert 50_000 < path.stat().st_size <= MAX_FIGURE_BYTES


def test_a_drawn_case_repeats_and_says_nothing_of_its_maker(tmp_path):
    panels = [("original", np.eye(8)), ("difference", np.zeros((8, 8))), ("adversarial", np.eye(8))]
    for name in ("a.png", "b.png"):
        draw_case(tmp_path / name, panels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert "Software" not in image.info
        # the method named adversarial is a heatmap, the image of that name leads the panels
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert ((colours.max(1) - colours.min(1)) > 60).any()


@pytest.mark.parametrize("panels", [[], [("original", np.zeros((1, 8, 8)))]])
def test_a_case_that_cannot_be_drawn_is_refused(tmp_path, panels):
    with pytest.raises(ValueError, match="panel"):
        draw_case(tmp_path / "case.png", panels)
