"""The command line as a whole: help, exit codes, one clear line for every bad input."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hauberk import main as command_line
from models.version import __version__
from tests import bundles
from tests.fakes import squares
from tests.unit.hauberk.conftest import Command, Ran, process

COMMANDS = ("serve", "train", "calibrate", "scan", "evaluate", "attack", "lab")


def assert_refused(ran: Ran, sentence: str) -> None:
    """Exit code 2 and exactly one line on stderr, which holds the sentence."""
    assert ran.code == 2, ran
    [line] = ran.errors.splitlines()
    assert line.startswith("hauberk: ")
    assert sentence in line
    assert ran.output == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example_of_it(hauberk: Command, command: str) -> None:
    ran = hauberk(command, "--help")
    assert ran.code == 0
    assert f"Example: hauberk {command} " in ran.output


def test_help_lists_every_command_and_so_does_saying_nothing(hauberk: Command) -> None:
    for ran in (hauberk("--help"), hauberk()):
        assert ran.code == 0
        assert all(f"  {command}" in ran.output for command in COMMANDS)
        assert ran.errors == ""


def test_the_version_is_that_of_the_package(hauberk: Command) -> None:
    ran = hauberk("--version")
    assert (ran.code, ran.output) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["defend"], "No such command 'defend'"),
        (["serve", "--workers", "3"], "No such option: --workers"),
        (["serve", "--port", "http"], "expected --port a whole number, got 'http'"),
        (["train", "--out", "m.keras"], "Missing option '--data'; see hauberk train --help"),
        (
            ["train", "--data", "d.npz", "--out", "m.keras", "--threads", "0"],
            "expected --threads a whole number of at least 1, got '0'",
        ),
        (["train", "--data", "d.npz", "--out", "m.keras", "--seed", "-1"], "expected --seed a whole number from 0 to 4294967295"),
        (["calibrate", "--classifier", "m.keras", "--data", "d.npz", "--out", "b", "--seed", str(2**32)], "got '4294967296'"),
        (["attack", "http://127.0.0.1:9", "--fail-above", "20"], "expected --fail-above a number from 0 to 1, got '20'"),
        (["attack", "http://127.0.0.1:9", "--eps", "small"], "expected --eps a number, got 'small'"),
        (["attack", "http://127.0.0.1:9", "--data"], "Option '--data' requires an argument; see hauberk --help"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_code_2(hauberk: Command, arguments: list[str], sentence: str) -> None:
    assert_refused(hauberk(*arguments), sentence)


def test_a_name_in_a_mistake_is_shown_and_not_obeyed(hauberk: Command, clean_data: Path, tmp_path: Path) -> None:
    for arguments in (
        ["train", "--data", tmp_path / "\x1b[2J\nhauberk: all is well.npz", "--out", "m.keras"],
        ["train", "--data", clean_data, "--out", tmp_path / "m.keras", "--rows", "\x1b[2J\nhauberk: all is well"],
        ["scan", "--classifier", "m.keras", "--data", clean_data, "--out", tmp_path, "--methods", "\u202e\x9b1m\n"],
    ):
        ran = hauberk(*arguments)
        assert_refused(ran, "expected")
        assert ran.errors.rstrip("\n").isprintable()


def test_an_interruption_is_code_130(hauberk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "app_for", lambda _: interrupted)
    assert hauberk("serve").code == 130


def test_an_error_of_ours_is_code_1_and_says_so(hauberk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "app_for", lambda _: broken)
    ran = hauberk("serve")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.errors
    assert ran.errors.endswith("hauberk: internal error; please report it with the lines above\n")


def test_a_missing_framework_is_code_2_and_says_what_to_install(hauberk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(**_: Any) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow.python'", name="tensorflow.python")

    monkeypatch.setattr(command_line, "app_for", lambda _: without)
    ran = hauberk("train")
    assert ran.code == 2
    assert ran.errors == 'hauberk: expected tensorflow to be installed, which this needs: pip install "hauberk[tensorflow]"\n'


def test_a_missing_module_of_no_extra_is_an_error_of_ours(hauberk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(**_: Any) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(command_line, "app_for", lambda _: without)
    assert hauberk("train").code == 1


@pytest.mark.parametrize("asked", [("serve", "--help"), ("attack", "--help")])
def test_a_command_imports_what_it_needs_and_not_what_others_need(asked: tuple[str, ...]) -> None:
    code = (
        "import sys; from hauberk.main import app_for; app_for(sys.argv[1:]); "
        "print([name for name in ('sklearn', 'hauberk.commands.scan', 'hauberk.commands.evaluate') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "[]"


def test_the_help_lists_every_command(hauberk: Command) -> None:
    listed = hauberk("--help").output
    assert all(name in listed for name in command_line.COMMANDS)


HARDEN = ("--adversarial", "pgd", "--eps", 0.1, "--iterations", 1, "--rows", "0:200", "--no-purified", "--threads", 2)
# 20 epochs are two seconds, and enough to be better than guessing.

TRAIN: dict[str, tuple[dict[str, Any], str]] = {
    "out of another kind": ({"out": "model.h5"}, "expected --out to end in .keras, got model.h5"),
    "no data": ({"data": "none.npz"}, "none.npz, which does not exist"),
    "no such split": ({"split": "validation"}, "expected --split train or test, got 'validation'"),
    "rows beyond the end": ({"rows": "0:421"}, "expected --rows START:STOP within 0:420, got '0:421'"),
    "rows that are no range": ({"rows": "7"}, "expected --rows START:STOP"),
    "rows in words": ({"rows": "first:last"}, "expected --rows START:STOP"),
    "no rows": ({"rows": "5:5"}, "expected --rows START:STOP"),
    "no epochs": ({"epochs": 0}, "expected epochs >= 1, got 0"),
    "nowhere to write": ({"out": "squares.npz/model.keras"}, "cannot write to"),
    "a directory": ({"out": "folder.keras"}, "expected --out to be a file to write, got folder.keras, which is a directory"),
    "an unknown attack": ({"adversarial": "jsma"}, "expected --adversarial fgm or pgd, got 'jsma'"),
    "no eps": ({"adversarial": "pgd", "eps": 0}, "training attack: expected eps > 0, got 0.0"),
    "a shift of less than nothing": ({"adversarial": "fgm", "shift": -1}, "adversarial trainer: expected shift >= 0, got -1"),
    "no ratio": ({"adversarial": "fgm", "ratio": 1.5}, "adversarial trainer: expected ratio in (0, 1], got 1.5"),
    "a model to train anew": (
        {"classifier": "mine.keras"},
        "expected --adversarial fgm or pgd, or --masked, with --classifier, got none",
    ),
    "an attack's size without the attack": (
        {"eps": 0.1, "trades": 6},
        "expected --adversarial fgm or pgd with --eps and --trades, got none",
    ),
    "a shift out of sight": (
        {"adversarial": "fgm", "shift": 16},
        "expected --shift below the sides of the images, (16, 16), got 16",
    ),
    "a range of no model": (
        {"input-range": "0,255"},
        "expected --classifier with options that say how a model reads images, got none",
    ),
    "no model to harden": ({"adversarial": "pgd", "classifier": "none.keras"}, "none.keras, which does not exist"),
}


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "of another shape": ({"x_test": np.zeros((60, 8, 8, 3), np.uint8)}, "in the test split, got (8, 8, 3)"),
    "of other classes": ({"y_test": np.full(60, 5)}, "expected labels up to 2, as those to train on, in the test split, got 5"),
    "fewer labels": ({"y_test": np.zeros(7, int)}, "expected one label per image in unfit.npz, got 60 images and 7 labels"),
    "not in 0..1": ({"x_test": np.full((60, 16, 16, 3), 7.0)}, "expected float images within 0..1"),
    "one class": ({"y_train": np.zeros(420, int)}, "expected labels of at least 2 classes to train on, got only class 0"),
}


@pytest.mark.parametrize("method", [(), ("--adversarial", "fgm")])
@pytest.mark.parametrize("what", UNFIT)
def test_data_to_judge_on_that_cannot_be_used_are_refused_before_the_training(
    hauberk: Command, clean_data: Path, tmp_path: Path, what: str, method: tuple[str, ...]
) -> None:
    changes, sentence = UNFIT[what]
    with np.load(clean_data) as whole:
        np.savez(tmp_path / "unfit.npz", **{**whole, **changes})
    ran = hauberk("train", "--data", tmp_path / "unfit.npz", "--out", tmp_path / "m.keras", "--epochs", 1, *method)
    assert_refused(ran, sentence)  # in one line: no progress was told before it
    assert not (tmp_path / "m.keras").exists()


def test_rows_of_a_sorted_file_that_lack_classes_are_refused(hauberk: Command, tmp_path: Path) -> None:
    some = squares(420, seed=30)
    order = np.argsort(some.labels, kind="stable")
    np.savez(tmp_path / "sorted.npz", images=some.images[order], labels=some.labels[order])
    ran = hauberk("train", "--data", tmp_path / "sorted.npz", "--out", tmp_path / "m.keras", "--rows", "0:250")
    assert_refused(ran, "rows of a file that is sorted by class hold some classes only: shuffle it")


@pytest.mark.parametrize("what", TRAIN)
def test_train_refuses_in_one_line(
    hauberk: Command, clean_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    changes, sentence = TRAIN[what]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squares.npz").symlink_to(clean_data)
    (tmp_path / "folder.keras").mkdir()
    options = {"data": "squares.npz", "out": "model.keras"} | changes
    assert_refused(hauberk("train", *(f"--{name}={value}" for name, value in options.items())), sentence)


def test_train_writes_a_model_and_says_how_good_it_is(
    hauberk: Command, clean_data: Path, tmp_path: Path, keras_model: Any
) -> None:
    out = tmp_path / "new" / "model.keras"
    ran = hauberk("train", "--data", clean_data, "--out", out, "--epochs", 2, "--rows", "0:300", "--threads", 2)
    assert ran.code == 0
    assert out.is_file()
    assert "300 images, 2 epochs, seed 0" in ran.output
    assert "accuracy on the test split: " in ran.output


def test_training_images_are_never_called_a_test(hauberk: Command, tmp_path: Path, keras_model: Any) -> None:
    some = squares(360, seed=30)
    pictures = np.rint(some.images * 255).astype(np.uint8)
    pictures[350:] = pictures[:10]  # the last ten, labels too, are the first ten again
    np.savez(tmp_path / "plain.npz", images=pictures, labels=np.r_[some.labels[:350], some.labels[:10]])
    command = ("train", "--data", tmp_path / "plain.npz", "--epochs", 4, "--no-purified", "--threads", 2)
    whole = hauberk(*command, "--out", tmp_path / "whole.keras")
    assert whole.code == 0, whole
    assert "accuracy on the training images themselves: " in whole.output
    assert "% of 360 images" in whole.output
    assert "nothing was held out to test on: --rows START:STOP" in whole.output
    assert "test split" not in whole.output
    part = hauberk(*command, "--out", tmp_path / "part.keras", "--rows", "0:300")
    assert "accuracy on the other rows of the file: " in part.output
    assert "% of 60 images" in part.output
    assert "warning: 10 of these images are among the training images too" in part.output


def test_a_model_trained_on_labels_of_other_images_is_code_2(hauberk: Command, tmp_path: Path, keras_model: Any) -> None:
    some = squares(400, seed=31)
    np.savez(tmp_path / "mixed.npz", images=some.images, labels=np.random.default_rng(0).permutation(some.labels))
    options = ("--epochs", 1, "--no-purified", "--rows", "0:200", "--threads", 2)
    ran = hauberk("train", "--data", tmp_path / "mixed.npz", "--out", tmp_path / "m.keras", *options)
    assert ran.code == 2, ran
    assert "the model is written, but the classifier is right on " in ran.errors
    assert "always answering the most frequent class is right on" in ran.errors


def test_train_hardens_a_model_with_a_range_of_its_own_and_says_how_where_it_is_not_given(
    hauberk: Command, clean_data: Path, tmp_path: Path, keras_model: Any
) -> None:
    import keras

    layers = [keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), *keras_model.layers]
    keras.Sequential(layers).save(tmp_path / "bytes.keras")
    command = ("train", "--data", clean_data, "--out", tmp_path / "m.keras", "--classifier", tmp_path / "bytes.keras", *HARDEN)
    assert_refused(hauberk(*command), "say --input-range=0,255")
    ran = hauberk(*command, "--epochs", 1, "--input-range", "0,255")
    assert ran.code == 0, ran
    assert "accuracy on the test split: 100.00 %" in ran.output


def test_a_model_that_names_the_classes_otherwise_is_not_hardened(
    hauberk: Command, keras_file: Path, tmp_path: Path, keras_model: Any
) -> None:
    some = squares(300, seed=32)
    np.savez(tmp_path / "turned.npz", images=some.images, labels=(some.labels + 1) % 3)
    options = ("--out", tmp_path / "m.keras", "--classifier", keras_file, *HARDEN)
    assert_refused(
        hauberk("train", "--data", tmp_path / "turned.npz", *options), "with its classes in another order it is right on"
    )


def test_train_hardens_judges_every_epoch_and_leaves_no_checkpoint(
    hauberk: Command, clean_data: Path, tmp_path: Path, keras_model: Any
) -> None:
    ran = hauberk("train", "--data", clean_data, "--out", tmp_path / "m.keras", "--epochs", 20, *HARDEN)
    assert ran.code == 0
    assert "epoch 20: loss " in ran.output
    assert "% right, " in ran.output
    assert "taken: epoch " in ran.output
    assert {path.name for path in tmp_path.iterdir()} == {"m.keras"}


def test_a_killed_hardening_goes_on_and_a_changed_one_does_not(
    hauberk: Command, clean_data: Path, tmp_path: Path, keras_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(epoch: Any) -> None:
        raise KeyboardInterrupt

    command = ("train", "--data", clean_data, "--out", tmp_path / "m.keras", *HARDEN)
    with monkeypatch.context() as patched:
        patched.setattr("hauberk.commands.train._print_epoch", kill)
        assert hauberk(*command, "--epochs", 20).code == 130
    assert (tmp_path / "m.training.npz").is_file()
    assert_refused(hauberk(*command, "--epochs", 3), "to be a checkpoint of this training, but it is one of other data")
    ran = hauberk(*command, "--epochs", 20)
    assert ran.code == 0
    assert "m.training.npz: going on after its last epoch" in ran.output
    assert "epoch 1: " not in ran.output
    assert {path.name for path in tmp_path.iterdir()} == {"m.keras"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_serve_refuses_a_port_that_is_taken(taken_port: int, tmp_path: Path) -> None:
    bundles.write(tmp_path)
    ran = process("serve", "--bundle", tmp_path, "--port", taken_port)
    assert_refused(ran, f"cannot listen on 127.0.0.1:{taken_port} (address already in use); choose another with --port")


def test_serve_refuses_an_audit_file_that_cannot_be_written(tmp_path: Path) -> None:
    bundles.write(tmp_path)
    ran = process("serve", "--bundle", tmp_path, HAUBERK_AUDIT_FILE=str(tmp_path / "none" / "audit.jsonl"))
    assert_refused(ran, "audit.jsonl cannot be written (no such file or directory); name another file, or none")


def test_serve_refuses_a_bundle_that_is_missing(tmp_path: Path) -> None:
    assert_refused(process("serve", "--bundle", tmp_path / "none"), "none, which does not exist; hauberk calibrate writes one")


def test_serve_refuses_a_bundle_that_was_altered(tmp_path: Path) -> None:
    bundles.write(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"another model")
    assert_refused(process("serve", HAUBERK_BUNDLE=str(tmp_path)), "model.keras is not the file")


def test_serve_refuses_a_setting_it_does_not_know(tmp_path: Path) -> None:
    bundles.write(tmp_path)
    ran = process("serve", "--bundle", tmp_path, HAUBERK_THREAD="4")
    assert_refused(ran, "unknown setting HAUBERK_THREAD; did you mean HAUBERK_THREADS? Known are HAUBERK_ACCESS_LOG")


def test_serve_refuses_a_mode_for_nothing(tmp_path: Path) -> None:
    bundles.write(tmp_path)
    assert_refused(process("serve", "--bundle", tmp_path, HAUBERK_MODES="moat=off"), "got one for 'moat'")


def test_serve_refuses_a_declaration_it_does_not_know_before_it_starts(tmp_path: Path) -> None:
    bundles.write(tmp_path, bundles.STRIP, bundles.REVERSE_SIGMOID | {"wait": 3})
    assert_refused(process("serve", "--bundle", tmp_path), "reverse_sigmoid: unknown key 'wait'; known are beta, gamma")


def test_serve_refuses_a_mode_for_a_defence_the_bundle_lacks(tmp_path: Path) -> None:
    bundles.write(tmp_path, bundles.STRIP)
    ran = process("serve", "--bundle", tmp_path, HAUBERK_MODES="total_variation=off")
    assert_refused(ran, "a mode is set for total_variation, but bundle animals declares only strip")


def test_serve_imports_neither_numba_nor_an_engine_nor_bentomls_command_line() -> None:
    code = (
        "import sys; from hauberk.commands import serve; serve._import_the_server(); "
        "print([name for name in ('numba', 'onnxruntime', 'tensorflow', 'scipy', 'bentoml_cli') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "[]"
