"""python -m benchmarks [section ...]: measure all sections, or those named, and write them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.backdoors import adaptive_backdoors, badexpert, forgetful_training, layer_disagreement
from benchmarks.fuzzing import fuzz
from benchmarks.harness.peers import machine
from benchmarks.methods import (
    activation_clustering,
    adaptive,
    adversarial_training,
    backdoors,
    black_box_attacks,
    evasion_detectors,
    extraction,
    formats,
    gradient_attacks,
    local_patches,
    other_images,
    purifier,
    real_sizes,
    repeated_tries,
    robustness,
    sentinet,
    strip,
    total_variation,
)
from benchmarks.networks import model_only
from benchmarks.serving import engines, hostile_clients, lab, operations, remote, scaling, service, shares, timing, tracing

_PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_HEAD = """# Benchmarks

`make bench` writes this page; `python -m benchmarks strip` measures one section again. Peers run warm, in turns with Hauberk, on the same
machine and data, so that the ratios can be compared; unfavourable figures are kept.

Each section says when it was measured. Those of before 2026-11-30 are about attacks, training, poison and purifiers, on TensorFlow,
which still makes the gradients ([0015](decisions/0015-one-engine.md)).

"""
# The service first, while this process has not loaded TensorFlow, whose threads would take a processor from the servers.
_SECTIONS: dict[str, Callable[[], str | None]] = {
    "service": service.section,
    "scaling": scaling.section,
    "shares": shares.section,
    "operations": operations.section,
    "hostile_clients": hostile_clients.section,
    "tracing": tracing.section,
    "remote": remote.section,
    "lab": lab.section,
    "fuzz": fuzz.section,
    "timing": timing.section,
    "engines": engines.section,
    "total_variation": total_variation.section,
    "strip": strip.section,
    "repeated_tries": repeated_tries.section,
    "purifier": purifier.section,
    "gradient_attacks": gradient_attacks.section,
    "black_box_attacks": black_box_attacks.section,
    "adaptive": adaptive.section,
    "evasion_detectors": evasion_detectors.section,
    "backdoors": backdoors.section,
    "adaptive_backdoors": adaptive_backdoors.section,
    "sentinet": sentinet.section,
    "badexpert": badexpert.section,
    "layers": layer_disagreement.section,
    "local_patches": local_patches.section,
    "forgetful_training": forgetful_training.section,
    "extraction": extraction.section,
    "formats": formats.section,
    "activation_clustering": activation_clustering.section,
    "model_only": model_only.section,
    "other_images": other_images.section,
    "robustness": robustness.section,
    "adversarial_training": adversarial_training.section,
    "real_sizes": real_sizes.section,
}


def page_with(page: str, section: str, stamp: str) -> str:
    """The page with this section, stamped, replacing the section of the same heading, or appended."""
    title, _, rest = section.strip().partition("\n")
    stamped = f"{title}\n\n{stamp}\n{rest}\n"
    sections = [part for part in re.split(r"(?m)^(?=## )", page) if part.startswith("## ")]
    headings = [part.partition("\n")[0] for part in sections]
    if title in headings:
        sections[headings.index(title)] = stamped
    else:
        sections.append(stamped)
    return _HEAD + "\n".join(part.strip() + "\n" for part in sections)


def main() -> None:
    """Measure the sections; each is written into the page as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(_SECTIONS)}; all when not given")
    names = parser.parse_args().sections or list(_SECTIONS)
    if not set(names) <= set(_SECTIONS):
        parser.error(f"expected sections of {', '.join(_SECTIONS)}, got {' '.join(names)}")
    for name in names:
        section = _SECTIONS[name]()
        if section is None:
            continue
        print(section, flush=True)
        _PAGE.write_text(page_with(_PAGE.read_text(), section, f"{datetime.now(UTC):%Y-%m-%d}, {machine()}."))
    print(f"written to {_PAGE}")


if __name__ == "__main__":
    main()
