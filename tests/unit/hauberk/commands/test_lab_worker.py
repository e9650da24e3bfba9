"""What the lab's workers open and run: real files, by the loaders of every command; and files that somebody wants to be run."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hauberk.commands.lab_worker import EXAMPLE_OPTIONS, bring, proposed, run, tasks
from lab.charts import agreement
from lab.errors import Refused
from lab.scans.clusters import clusters_of
from lab.scans.samples import ScannedSamples
from lab.subject import Subject
from lab.work.loop import AnotherReading, Asked, answered
from lab.workbench import EXAMPLE_RESULTS
from models.bundle import standard_bundle_directory
from models.datasets import MNIST, load_dataset
from models.errors import InvalidInput
from models.progress import silent

BUNDLE = standard_bundle_directory()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 digits, as bytes."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    data = load_dataset(MNIST, split="test").take(slice(0, 400))
    np.savez(path, images=(data.images * 255).round().astype(np.uint8), labels=data.labels)
    return path


def asked(task: str, out: Path, subject: Subject, **options: Any) -> dict[str, Any]:
    """What a worker answers."""
    return answered(tasks(), {"task": task, "subject": subject.as_json(), "options": options, "out": str(out)}, silent)


def test_a_bundle_and_its_onnx_file_are_read_alike(digits: Path, tmp_path: Path) -> None:
    found = asked("read", tmp_path, Subject(model=str(BUNDLE), data=str(digits)))["result"]
    assert found["bundle"]["name"] == "mnist-standard"
    assert (found["images"], found["shape"], found["accuracy"]["verdict"]) == (400, [28, 28, 1], "fine")
    alone = asked("read", tmp_path, Subject(model=str(BUNDLE / "model.onnx"), data=str(digits)))["result"]
    assert alone["bundle"] is None
    assert alone["accuracy"]["right"] == found["accuracy"]["right"]
    assert not alone["gradients"]


def test_a_bundle_in_a_zip_is_the_bundle(digits: Path, tmp_path: Path) -> None:
    zipped = shutil.make_archive(str(tmp_path / "bundle"), "zip", root_dir=BUNDLE.parent, base_dir=BUNDLE.name)
    subject = Subject(model=zipped, data=str(digits))
    found = asked("read", tmp_path, subject)["result"]
    assert found == asked("read", tmp_path, Subject(model=str(BUNDLE), data=str(digits)))["result"]
    assert found["bundle"]["name"] == "mnist-standard"
    assert subject.is_bundle
    armour: dict[str, Any] = {"attack": "none", "image": 0, "on": ["strip"], "parameters": {}}
    assert asked("armour", tmp_path, subject, **armour)["result"]["strip"]["count"] > 0


def test_a_bundle_in_a_zip_that_was_changed_is_refused(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.onnx").open("ab") as file:
        file.write(b"more")
    zipped = shutil.make_archive(str(tmp_path / "changed"), "zip", root_dir=tmp_path, base_dir="bundle")
    refused = asked("read", tmp_path, Subject(model=zipped, data=str(digits)))["refused"]
    assert refused["field"] == "model"


def test_one_image_goes_through_the_armour_as_it_is_served(digits: Path, tmp_path: Path) -> None:
    subject = Subject(model=str(BUNDLE), data=str(digits))
    everything = {"on": ["total_variation", "strip", "reverse_sigmoid"], "parameters": {}}
    found = asked("armour", tmp_path, subject, attack="none", image=3, **everything)["result"]
    assert found["returned"][0]["class"] == found["label"]
    assert found["returned"][0]["probability"] < found["raw"][0]["probability"]  # blurred
    assert found["strip"]["count"] == 20
    assert found["strip"]["threshold"] == pytest.approx(0.1336, abs=1e-4)
    off = asked("armour", tmp_path, subject, attack="none", image=3, on=[], parameters={})["result"]
    assert off["returned"] == off["undefended"]
    assert off["strip"] is None
    assert not off["purifies"]
    strict = {**everything, "parameters": {"strip.threshold": 1.0}}
    refused = asked("armour", tmp_path, subject, attack="none", image=3, **strict)["result"]
    assert refused["refused"]
    assert refused["returned"] is None
    smoother = {**everything, "parameters": {"total_variation.weight": 0.3}}
    other = asked("armour", tmp_path, subject, attack="none", image=3, **smoother)["result"]
    assert other["purified"] != found["purified"]
    assert other["parameters"] == found["parameters"]


def test_pictures_in_a_zip_are_read_and_those_of_other_sizes_can_be_resized(tmp_path: Path) -> None:
    data = load_dataset(MNIST, split="test").take(slice(0, 120))
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for at, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            size = 32 if at == 7 else 28
            picture = Image.fromarray((image[..., 0] * 255).astype(np.uint8)).resize((size, size))
            picture.save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"digits/{label}/{at}.png")
    subject: dict[str, Any] = {"model": str(BUNDLE / "model.onnx"), "data": str(tmp_path / "pictures.zip")}
    refused = asked("read", tmp_path, Subject(**subject))["refused"]
    assert refused["field"] == "data"
    assert "--resize" in refused["sentence"]
    found = asked("read", tmp_path, Subject(**subject, resize="28x28"))["result"]
    assert (found["images"], found["labels"]) == (120, [str(label) for label in range(10)])
    assert found["accuracy"]["rate"] > 0.9


class _Trap:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trapped"),))


def hostile(path: Path) -> None:
    """A file that runs something where it is unpickled."""
    if path.suffix == ".npz":
        np.savez(path, images=np.array([_Trap()], object), labels=np.array([0]))
    elif path.suffix in (".pt", ".skops", ".keras"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(_Trap()))
            archive.writestr("config.json", json.dumps({"module": "os", "class_name": "system", "config": "touch trapped"}))
            archive.writestr("metadata.json", "{}")
    else:
        path.write_bytes(pickle.dumps(_Trap()))


@pytest.mark.parametrize("name", ["a.keras", "a.h5", "a.onnx", "a.pt", "a.pt2", "a.skops", "a.zip"])
def test_a_model_that_is_none_or_wants_to_be_run_is_refused_beside_its_field(
    name: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile(tmp_path / name)
    refused = asked("read", tmp_path, Subject(model=str(tmp_path / name), data=str(digits)))["refused"]
    assert refused["field"] == "model"
    assert "xpected" in refused["sentence"]
    assert not (tmp_path / "trapped").exists()


def test_data_that_are_none_are_refused_beside_their_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile(tmp_path / "a.npz")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "far.npz", images=np.zeros((30, 28, 28), np.uint8), labels=np.full(30, 11))
    np.savez(tmp_path / "other.npz", images=np.zeros((30, 8, 8), np.uint8), labels=np.arange(30) % 10)
    for name in ("a.npz", "empty", "far.npz", "other.npz", "nothing.npz"):
        refused = asked("read", tmp_path, Subject(model=str(BUNDLE), data=str(tmp_path / name)))["refused"]
        assert refused["field"] == "data", refused
        assert "xpected" in refused["sentence"]
    assert not (tmp_path / "trapped").exists()


def test_a_server_is_never_asked_and_a_file_that_is_not_there_is_said(digits: Path) -> None:
    for model in ("v2://127.0.0.1:9/m", "http://127.0.0.1/m.onnx", "/nothing/here.keras"):
        with pytest.raises(Refused) as refused:
            bring(Subject(model=model, data=str(digits)), silent)
        assert refused.value.field == "model"


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"input_range": "wide"}, "input_range"),
        ({"labels": "a,a"}, "labels"),
        ({"labels": "/etc/hostname"}, "labels"),
        ({"mean": "300"}, "mean"),
        ({"preset": "torch", "input_range": "0,1"}, "preset"),
    ],
)
def test_what_was_said_wrongly_is_told_beside_its_field(said: dict[str, str], field: str, digits: Path) -> None:
    with pytest.raises(Refused) as refused:
        bring(Subject(model=str(BUNDLE / "model.onnx"), data=str(digits), declared=said), silent)
    assert refused.value.field == field


def test_another_reading_that_fits_better_is_proposed_as_fields_of_the_form(digits: Path, tmp_path: Path) -> None:
    subject = Subject(model=str(BUNDLE / "model.onnx"), data=str(digits), declared={"layout": "nhwc"})
    with np.load(digits) as stored:  # white digits on black, shown to it as black on white
        np.savez(tmp_path / "inverted.npz", images=255 - stored["images"], labels=stored["labels"])
    with pytest.raises(AnotherReading) as refused:
        bring(Subject(model=subject.model, data=str(tmp_path / "inverted.npz")), silent)
    assert refused.value.proposal == {"input_range": "1,0"}
    said = Subject(model=subject.model, data=str(tmp_path / "inverted.npz"), declared=refused.value.proposal)
    assert bring(said, silent).accuracy.verdict == "fine"
    assert proposed("--mean=0.5 --std=0.25,0.3 --channels=bgr") == {"mean": "0.5", "std": "0.25,0.3", "channels": "bgr"}


def test_labels_in_another_order_are_proposed_and_then_read_and_fitted(digits: Path, tmp_path: Path) -> None:
    with np.load(digits) as stored:
        np.savez(tmp_path / "turned.npz", images=stored["images"], labels=(stored["labels"] + 1) % 10)
    subject = Subject(model=str(BUNDLE / "model.onnx"), data=str(tmp_path / "turned.npz"))
    found = asked("read", tmp_path, subject)["result"]
    assert found["accuracy"]["cause"] == "classes in another order"
    assert found["order"] == [9, *range(9)]
    said = replace(subject, order=",".join(map(str, found["order"])))
    again = asked("read", tmp_path, said)["result"]
    assert (again["accuracy"]["verdict"], again["order"]) == ("fine", None)
    assert asked("calibrate", tmp_path, said)["result"]["bundle"]
    written = load_dataset(tmp_path / "relabelled.npz")
    assert (written.labels == load_dataset(digits).labels).all()
    assert asked("read", tmp_path, replace(subject, order="1,0"))["refused"]["field"] == "order"


def test_a_command_runs_as_the_command_line_runs_it_and_reports(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(InvalidInput, match="bundle's card"):
        run("evaluate", {"bundle": tmp_path, "data": digits, "out": tmp_path / "out", "rows": None}, silent)


def test_a_bundle_is_calibrated_and_packed(digits: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    subject = Subject(model=str(BUNDLE / "model.onnx"), data=str(digits))
    found = tasks()["calibrate"](
        Asked(subject, {"detectors": "strip", "name": "tried"}, tmp_path, lambda what, *_: steps.append(what))
    )
    assert found["bundle"]["name"] == "tried"
    assert [one["name"] for one in found["bundle"]["defences"]] == ["total_variation", "strip", "reverse_sigmoid"]
    assert steps
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert {"bundle/hauberk.toml", "bundle/model.onnx", "bundle/card.json"} <= set(archive.namelist())
    assert asked("calibrate", tmp_path, subject, detectors="all")["refused"]["field"] == "detectors"
    assert asked("calibrate", tmp_path / "other", subject, name="no name!")["refused"]["field"] == "name"
    again = asked("read", tmp_path, Subject(model=str(tmp_path / "bundle"), data=str(digits)))["result"]
    assert again["bundle"]["name"] == "tried"


def test_copies_are_stolen_with_and_without_the_blur(digits: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    subject = Subject(model=str(BUNDLE), data=str(digits))
    found = tasks()["steal"](Asked(subject, {"budget": "quick"}, tmp_path, lambda what, done, of: steps.append((done, of))))
    assert [(row["victim"], row["thief"]) for row in found["rows"]] == [
        ("no defence", "probabilities"),
        ("no defence", "labels"),
        *[(victim, thief) for victim in ("reverse sigmoid", "as served") for thief in ("probabilities", "labels", "looked up")],
    ]
    assert (found["pool"], found["judged_on"], found["left_out"]) == (267, 133, [400])
    assert all(0 <= row["agreement"] <= 1 for row in found["rows"])
    chart = agreement(found)
    assert chart is not None
    assert len(chart.lines) == 8
    assert steps[1:] == [(done, 8) for done in range(1, 9)]  # the first is the opening
    json.dumps(found, allow_nan=False)
    few = asked("steal", tmp_path, replace(subject, rows="0:100"))
    assert "at least 300 images" in few["refused"]["sentence"]
    assert asked("steal", tmp_path, subject, budget="all")["refused"]["field"] == "budget"


def test_mislabelled_images_of_one_class_are_found_and_shown(tmp_path: Path) -> None:
    data = load_dataset(MNIST, split="test").take(slice(0, 1200))
    labels = data.labels.copy()
    moved = np.flatnonzero(labels == 3)[:50]
    labels[moved] = 7
    np.savez(tmp_path / "poisoned.npz", images=np.rint(data.images * 255).astype(np.uint8), labels=labels)
    subject = Subject(model=str(BUNDLE), data=str(tmp_path / "poisoned.npz"))
    found = asked("scan", tmp_path, subject)["result"]
    assert (found["verdict"], found["poisoned_classes"]) == ("poison", ["7"])
    assert np.isin(np.flatnonzero(~np.load(tmp_path / "is_clean.npy")), moved).mean() > 0.9
    first = found["groups"][0]
    assert (first["class"], first["suspicious"]) == ("7", True)
    samples = ScannedSamples(tmp_path, found)
    shown = [one.row for one in samples.first(0, 100)]
    assert len(shown) == first["samples"]
    assert np.isin(shown, moved).mean() > 0.9
    assert samples.of_row(int(moved[0])).answer == "3"
    assert found["pictures"] == 1200
    assert found["clusters"][0] == {"class": "7", "label": 7, "poisoned": True, "samples": int((labels == 7).sum())}
    drawn = clusters_of(tmp_path, 7)
    assert drawn is not None
    assert {row for row, *_, suspicious in drawn["points"] if suspicious} == set(shown)
    assert (tmp_path / "report.html").is_file()


def test_what_the_first_visit_shows_is_what_a_worker_finds(tmp_path: Path) -> None:
    shown = json.loads((EXAMPLE_RESULTS / "read" / "result.json").read_text())
    assert asked("read", tmp_path, Subject(model=str(BUNDLE), data=str(MNIST)))["result"] == shown
    attacked = json.loads((EXAMPLE_RESULTS / "attack" / "result.json").read_text())
    assert attacked["choice"] == EXAMPLE_OPTIONS["attack"]
    assert attacked["images"] == 200
