"""The console: over HTTP, and in Chromium as a person uses it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, FilePayload, Page, Route, expect

from attacks.backdoors.triggers import CornerPattern
from models.bundle import EXAMPLE, Bundle, write_bundle
from service.errors import MEDIA_TYPE, NotReady, Problem, Stopping
from service.routes.console import FILES, MEDIA_TYPES, PAGE
from tests.browser import chromium, faint_texts, overflow

HTML = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MARKUP = "<img src=x onerror=alert(1)>"
LONG = "a label " * 40


# Over HTTP


def test_a_browser_gets_the_page_and_a_program_the_json(server: Any) -> None:
    page, json_answer = httpx.get(server.url, headers=HTML), httpx.get(server.url)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert json_answer.headers["content-type"] == "application/json"
    assert page.headers["vary"] == json_answer.headers["vary"] == "Accept"
    assert json_answer.json()["state"] == "ready"
    assert [(defence["name"], defence["mode"]) for defence in json_answer.json()["defences"]] == [
        ("total_variation", "enforce"),
        ("strip", "enforce"),
        ("reverse_sigmoid", "enforce"),
    ]


def test_every_file_comes_with_a_policy_that_allows_nothing_from_elsewhere(server: Any) -> None:
    paths = {"/": PAGE} | {f"/console/{file.name}": file.name for file in FILES.iterdir() if file.name != PAGE}
    assert len(paths) > 5
    for path, name in paths.items():
        response = httpx.get(server.url + path, headers={**HTML, "x-request-id": "abc"})
        assert (response.status_code, response.content) == (200, (FILES / name).read_bytes())
        assert response.headers["content-type"] == MEDIA_TYPES[Path(name).suffix].decode()
        policy = dict(part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
        assert (response.headers["x-content-type-options"], response.headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert response.headers["cross-origin-opener-policy"] == "same-origin"
        assert response.headers["x-request-id"] == "abc"


@pytest.mark.parametrize("path", ["/", "/console/main.js"])
def test_head_is_get_without_a_body_and_other_methods_are_refused_with_a_request_id(server: Any, path: str) -> None:
    head, whole = httpx.head(server.url + path, headers=HTML), httpx.get(server.url + path, headers=HTML)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    post = httpx.post(server.url + path, headers=HTML)
    assert (post.status_code, post.json()["code"]) == (405, "method_not_allowed")
    assert post.headers["x-request-id"] == post.json()["request_id"]


@pytest.mark.parametrize(
    "path",
    ["/console", "/console/", "/console/page.html", "/console/../console.py", "/console/%2e%2e/console.py", "/console//etc"],
)
def test_no_other_file_can_be_had(server: Any, path: str) -> None:
    answer = server.send_raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n".encode())
    assert answer.status == 404


# In Chromium


@dataclass
class Visit:
    """A page, what its console complained of, and what it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, server: Any) -> None:
        self.page.goto(server.url)
        expect(self.page.locator("#classes")).not_to_have_text("–")

    def upload(self, picture: Image.Image, form: str = "PNG") -> None:
        content = io.BytesIO()
        picture.save(content, form)
        file = FilePayload(name=f"picture.{form.lower()}", mimeType=f"image/{form.lower()}", buffer=content.getvalue())
        self.page.locator("#file").set_input_files(file)
        expect(self.page.locator("#classify")).to_have_attribute("aria-disabled", "false")

    def draw(self, *points: tuple[float, float]) -> None:
        """One stroke with the mouse; places in parts of the canvas."""
        box = self.page.locator("#drawing").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for x, y in places[1:]:
            self.page.mouse.move(x, y, steps=8)
        self.page.mouse.up()

    def classify(self) -> str:
        """Press the button, and wait for what kind of answer it is: answered, abstained or problem."""
        expect(self.page.locator("#classify")).to_have_attribute("aria-disabled", "false")
        self.page.locator("#classify").click()
        return self.kind()

    def kind(self) -> str:
        answer = self.page.locator("#answer")
        expect(answer).to_have_attribute("data-kind", re.compile("^(answered|abstained|problem)$"), timeout=15_000)
        return answer.get_attribute("data-kind") or ""

    def text(self, place: str) -> str:
        return self.page.locator(place).inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    page = browser.new_page()
    page.set_default_timeout(15_000)
    found = Visit(page)
    page.on("console", lambda message: found.complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", found.dismiss)
    page.on("request", lambda request: found.asked.append(request.url))
    yield found
    page.close()


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier of twelve classes for 32x24 colour pictures: red is the first, green the second, blue the third."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(1)
    import keras

    directory = tmp_path_factory.mktemp("bundles") / "colour"
    directory.mkdir()
    dense = keras.layers.Dense(12, use_bias=False)
    model = keras.Sequential([keras.Input((24, 32, 3)), keras.layers.GlobalAveragePooling2D(), dense])
    dense.set_weights([8.0 * np.eye(3, 12)])
    model.save(directory / "model.keras")
    classifier = {
        "file": "model.keras",
        "outputs": "logits",
        "input_range": [0.0, 1.0],
        "input_shape": [24, 32, 3],
        "labels": [MARKUP, LONG, "blue", *(f"other {i}" for i in range(9))],
    }
    defences = [
        {"name": "total_variation", "mode": "monitor", "weight": 0.05},
        {"name": "reverse_sigmoid", "mode": "off", "beta": 1.0, "gamma": 0.1},
    ]
    settings = {"format": 1, "name": "colour", "classifier": classifier, "defences": defences}
    return write_bundle(directory, settings=settings, calibration={}, card={})


def as_picture(image: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def test_the_page_shows_what_is_served_without_a_complaint_and_asks_nobody_else(server: Any, visit: Visit) -> None:
    visit.open(server)
    facts = httpx.get(server.url).json()
    assert (visit.text("#model"), visit.text("#model-version")) == ("backdoored", facts["model_version"])
    assert (visit.text("#shape"), visit.text("#classes")) == ("28 × 28, grey", "10")
    expect(visit.page.locator("#state")).to_have_text("ready")
    assert visit.page.locator("#defences strong").all_inner_texts() == [told["title"] for told in facts["defences"]]
    assert visit.page.locator("#defences .mode").all_inner_texts() == ["enforce"] * 3
    assert visit.page.title() == "backdoored · Hauberk"
    links = [link.get_attribute("href") for link in visit.page.locator("#links a").all()]
    assert links
    assert [httpx.get(f"{server.url}/{link}").status_code for link in links] == [200] * len(links)
    assert visit.complaints == []
    assert {urlsplit(url).netloc for url in visit.asked} == {urlsplit(server.url).netloc}


def test_text_never_becomes_markup_nor_a_script_even_from_a_script(server: Any, visit: Visit) -> None:
    visit.open(server)
    refused = visit.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return null; } catch (e) { return e.name; } }"
    )
    assert refused == "TypeError"
    assert "TrustedHTML" in "".join(visit.complaints)


def test_an_answer_says_when_another_image_is_about_to_be_sent(server: Any, visit: Visit) -> None:
    visit.open(server)
    visit.draw((0.5, 0.2), (0.5, 0.8))
    visit.classify()
    expect(visit.page.locator("#stale")).to_be_hidden()
    visit.draw((0.2, 0.5), (0.8, 0.5))
    expect(visit.page.locator("#stale")).to_be_visible()
    visit.page.locator("#undo").click()
    expect(visit.page.locator("#stale")).to_be_hidden()


def test_a_drawn_stroke_is_answered(server: Any, visit: Visit) -> None:
    visit.open(server)
    expect(visit.page.locator("#classify")).to_have_attribute("aria-disabled", "true")
    visit.draw((0.5, 0.2), (0.5, 0.8))
    assert visit.classify() == "answered"
    assert visit.text("#headline") == "1"
    assert visit.page.locator("#bars li").count() == 10
    assert re.fullmatch(r"\d+ ms\s+request [0-9a-f]{32}", visit.text("#trail"))
    assert visit.complaints == []
    visit.page.locator("#clear").click()
    expect(visit.page.locator("#classify")).to_have_attribute("aria-disabled", "true")


def test_a_finger_draws_too(server: Any, visit: Visit) -> None:
    visit.open(server)
    box = visit.page.locator("#drawing").bounding_box()
    assert box is not None
    finger = visit.page.context.new_cdp_session(visit.page)
    for kind, y in [("touchStart", 0.2), *(("touchMove", 0.2 + 0.06 * i) for i in range(1, 11))]:
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + y * box["height"]}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert visit.classify() == "answered"
    assert visit.text("#headline") == "1"


def test_a_small_drawing_in_a_corner_is_sent_as_a_centred_digit(server: Any, visit: Visit) -> None:
    visit.open(server)
    visit.draw((0.1, 0.1), (0.1, 0.3))
    with visit.page.expect_request("**/predict/npy") as sent:
        visit.classify()
    image = np.load(io.BytesIO(sent.value.post_data_buffer or b""))
    assert (image.shape, image.dtype) == ((1, 28, 28, 1), np.uint8)
    mass = image[0, :, :, 0] / image.sum()
    assert [mass.sum(axis=axis) @ (np.arange(28) + 0.5) for axis in (0, 1)] == pytest.approx([14, 14], abs=0.1)
    rows = np.flatnonzero(image.max(axis=(0, 2, 3)) > 127)
    assert 19 <= rows[-1] - rows[0] + 1 <= 21


def test_the_keyboard_alone_draws_and_classifies(server: Any, visit: Visit) -> None:
    visit.open(server)
    keyboard = visit.page.keyboard
    for _ in range(20):
        keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.id") == "drawing":
            break
    for key in [*["ArrowUp"] * 8, "Space", *["ArrowDown"] * 16, "Space"]:
        keyboard.press(key)
    expect(visit.page.locator("#classify")).to_have_attribute("aria-disabled", "false")
    keyboard.press("Enter")
    assert visit.kind() == "answered"
    assert visit.text("#headline") == "1"
    keyboard.press("Backspace")
    expect(visit.page.locator("#classify")).to_have_attribute("aria-disabled", "true")


def test_an_uploaded_digit_is_answered_as_its_pixels_are(server: Any, digits: Any, visit: Visit) -> None:
    image = np.rint(digits[0][0] * 255) / 255
    (prediction,) = server.ask([image.tolist()]).json()["predictions"]
    visit.open(server)
    visit.upload(as_picture(image))
    assert visit.classify() == "answered"
    assert visit.text("#headline") == prediction["label"]
    shown = [f"{100 * probability:.1f} %" for probability in prediction["probabilities"]]
    assert visit.page.locator(".bar-value").all_inner_texts() == shown
    assert visit.complaints == []


def test_a_large_dark_on_light_picture_is_shrunk_and_inverted_in_the_browser(server: Any, digits: Any, visit: Visit) -> None:
    image, label = digits[0][0], digits[1][0]
    paper = as_picture(1 - image).resize((560, 560), Image.Resampling.BICUBIC).convert("RGB")
    visit.open(server)
    visit.upload(paper, "JPEG")
    visit.page.locator("#invert").check()
    assert visit.classify() == "answered"
    assert visit.text("#headline") == str(label)


def test_a_file_may_be_dropped_anywhere(server: Any, digits: Any, visit: Visit) -> None:
    content = io.BytesIO()
    as_picture(digits[0][0]).save(content, "PNG")
    visit.open(server)
    transfer = visit.page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        list(content.getvalue()),
    )
    visit.page.dispatch_event("#defences", "drop", {"dataTransfer": transfer})
    expect(visit.page.locator("#file-name")).to_have_text("dropped.png")
    assert visit.classify() == "answered"
    assert visit.text("#headline") == str(digits[1][0])


def test_an_image_with_a_trigger_is_shown_as_an_abstention_not_as_an_answer(server: Any, triggered: Any, visit: Visit) -> None:
    visit.open(server)
    visit.upload(as_picture(triggered[0]))
    assert visit.classify() == "abstained"
    assert visit.text("#headline") == "Abstained"
    assert "refused to answer" in visit.text("#detail")
    expect(visit.page.locator("#bars")).to_be_hidden()
    assert visit.complaints == []


def test_a_file_that_is_no_picture_is_said_to_be_none_and_nothing_is_sent(server: Any, visit: Visit) -> None:
    visit.open(server)
    visit.page.locator("#file").set_input_files(FilePayload(name="x.png", mimeType="image/png", buffer=b"no picture"))
    assert visit.kind() == "problem"
    assert "cannot read" in visit.text("#detail")
    expect(visit.page.locator("#classify")).to_have_attribute("aria-disabled", "true")


def test_labels_are_text_the_likeliest_ten_are_shown_and_modes_are_told_apart(
    new_server: Any, colour: Bundle, visit: Visit
) -> None:
    server = new_server(HAUBERK_BUNDLE=str(colour.directory))
    visit.open(server)
    assert visit.text("#shape") == "32 × 24, RGB"
    assert visit.page.locator("#defences .mode").all_inner_texts() == ["monitor", "off"]
    assert "example" not in httpx.get(server.url).json()["links"]
    assert httpx.get(f"{server.url}/console/{EXAMPLE}").status_code == 404
    for place in ("#draw", "#ways", "#trigger-field"):
        expect(visit.page.locator(place)).to_be_hidden()
    visit.upload(Image.new("RGB", (400, 100), (255, 0, 0)))
    assert visit.classify() == "answered"
    assert visit.text("#headline") == MARKUP
    assert marks(visit) == {"Total variation minimisation": "looked on, changed nothing", "Reverse sigmoid": "did nothing"}
    assert visit.page.locator(".bar-name").count() == 10
    assert visit.page.locator("img[src=x]").count() == 0
    assert visit.text("#bars-note") == "The likeliest 10 of 12."
    visit.upload(Image.new("RGB", (32, 24), (0, 255, 0)))
    assert visit.classify() == "answered"
    assert visit.page.locator("#headline").text_content() == LONG
    assert overflow(visit.page) == 0
    assert visit.complaints == []


def test_a_bar_is_as_long_as_its_probability_and_the_whole_track_is_all_of_it(server: Any, digits: Any, visit: Visit) -> None:
    image = np.rint(digits[0][0] * 255) / 255
    (prediction,) = server.ask([image.tolist()]).json()["predictions"]
    visit.page.emulate_media(reduced_motion="reduce")
    visit.open(server)
    visit.upload(as_picture(image))
    visit.classify()
    shares = visit.page.evaluate(
        """() => [...document.querySelectorAll(".bar-track")]
            .map((track) => track.firstElementChild.getBoundingClientRect().width / track.getBoundingClientRect().width)"""
    )
    assert max(prediction["probabilities"]) < 0.9
    assert shares == pytest.approx(prediction["probabilities"], abs=0.01)


def marks(visit: Visit) -> dict[str, str]:
    """What the data path says that each defence did, by its title."""
    steps = visit.page.locator("#defences li[data-did]").all()
    return {step.locator("strong").inner_text(): step.locator(".did").inner_text() for step in steps}


def test_the_data_path_says_what_each_defence_did_to_the_last_image(
    server: Any, digits: Any, triggered: Any, visit: Visit
) -> None:
    visit.open(server)
    nodes = visit.page.locator("#defences li").all_inner_texts()
    first_lines = [node.splitlines()[0] for node in nodes]
    assert first_lines == ["Image", "Total variation minimisation", "Classifier", "STRIP", "Reverse sigmoid", "Answer"]
    assert marks(visit) == {}
    visit.upload(as_picture(digits[0][0]))
    visit.classify()
    assert marks(visit) == {
        "Total variation minimisation": "purified the image",
        "STRIP": "let the image pass",
        "Reverse sigmoid": "blurred the probabilities",
    }
    assert visit.text("#detail") == "Purified, passed the detectors, probabilities blurred."
    visit.upload(as_picture(triggered[0]))
    visit.classify()
    assert marks(visit) == {
        "Total variation minimisation": "purified the image",
        "STRIP": "refused the image",
        "Reverse sigmoid": "had no answer to blur",
    }
    visit.page.locator("#way-draw").click()
    visit.page.locator("#clear").click()
    assert marks(visit) == {}


def test_which_of_several_detectors_refused_is_not_told(server: Any, triggered: Any, visit: Visit) -> None:
    facts = httpx.get(server.url).json()
    second = {"name": "sentinet", "mode": "enforce", "title": "SentiNet", "stage": "abstain", "summary": "Another."}
    told = json.dumps(facts | {"defences": [*facts["defences"], second]})

    def index(route: Route) -> None:
        if "json" in route.request.headers["accept"]:
            route.fulfill(status=200, content_type="application/json", body=told)
        else:
            route.continue_()

    visit.page.route(f"{server.url}/", index)
    visit.open(server)
    visit.upload(as_picture(triggered[0]))
    assert visit.classify() == "abstained"
    found = marks(visit)
    assert found["STRIP"] == found["SentiNet"] == "this detector or another refused the image"


def test_the_trigger_is_the_published_one_and_is_stamped_on_what_is_sent(server: Any, digits: Any, visit: Visit) -> None:
    image = np.rint(digits[0][0] * 255) / 255
    sent: list[bytes] = []
    visit.page.on("request", lambda request: sent.append(request.post_data_buffer or b"") if request.method == "POST" else None)
    visit.open(server)
    visit.upload(as_picture(image))
    visit.page.get_by_label("Add a corner trigger").check()
    assert visit.classify() in ("answered", "abstained")
    (body,) = sent
    expected = CornerPattern(distance=5)(image.astype(np.float32).reshape(1, 28, 28, 1))
    assert (np.load(io.BytesIO(body)) == np.rint(expected * 255)).all()
    visit.page.get_by_label("Add a corner trigger").uncheck()
    expect(visit.page.locator("#stale")).to_be_visible()


def test_the_example_of_a_bundle_is_a_sample_to_classify_at_once(server: Any, backdoored: Bundle, visit: Visit) -> None:
    example = httpx.get(f"{server.url}/console/{EXAMPLE}")
    assert example.headers["content-type"] == "application/json"
    assert example.json() == json.loads((backdoored.directory / EXAMPLE).read_text())
    (prediction,) = httpx.post(f"{server.url}/predict", json=example.json()).json()["predictions"]
    visit.open(server)
    visit.page.get_by_role("button", name="Sample").click()
    assert visit.classify() == "answered"
    assert visit.text("#headline") == prediction["label"]
    assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_in_dark(server: Any, visit: Visit, scheme: Literal["light", "dark"]) -> None:
    visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    visit.open(server)
    visit.draw((0.5, 0.2), (0.5, 0.8))
    visit.classify()
    assert faint_texts(visit.page) == []


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_is_wider_than_the_screen(server: Any, visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.open(server)
    visit.draw((0.5, 0.2), (0.5, 0.8))
    visit.classify()
    assert overflow(visit.page) == 0


def test_what_the_server_refuses_and_its_end_are_shown(new_server: Any, visit: Visit) -> None:
    server = new_server(HAUBERK_MAX_BODY_BYTES="100")
    visit.open(server)
    visit.draw((0.5, 0.2), (0.5, 0.8))
    assert visit.classify() == "problem"
    assert visit.text("#headline") == HTTPStatus(413).phrase
    assert "longer than this server takes" in visit.text("#detail")
    server.stop()
    visit.page.locator("#classify").click()
    expect(visit.page.locator("#headline")).to_have_text("Not reachable")
    expect(visit.page.locator("#state")).to_have_text("unreachable")


# What this server does not answer by itself, another before it may.


@pytest.mark.parametrize(("problem", "state"), [(NotReady(), "starting"), (Stopping(), "stopping")])
def test_a_server_that_is_not_ready_is_watched_until_it_is(server: Any, visit: Visit, problem: Problem, state: str) -> None:
    ready = False

    def readyz(route: Route) -> None:
        if ready:
            route.continue_()
        else:
            route.fulfill(status=problem.status, content_type=MEDIA_TYPE.decode(), body=problem.body("1"))

    visit.page.route("**/readyz", readyz)
    visit.open(server)
    expect(visit.page.locator("#state")).to_have_text(state)
    ready = True
    expect(visit.page.locator("#state")).to_have_text("ready")


def problem_of(status: int, **members: Any) -> dict[str, Any]:
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": "Because.", **members}
    return {"status": status, "content_type": "application/problem+json", "body": json.dumps(document)}


@pytest.mark.parametrize(
    ("answer", "headline", "detail"),
    [
        (problem_of(429) | {"headers": {"retry-after": "7"}}, "Too Many Requests", "Because. Try again in 7 s."),
        (problem_of(503), "Service Unavailable", "Because."),
        (problem_of(504, detail=MARKUP), "Gateway Timeout", MARKUP),
        ({"status": 502, "content_type": "text/html", "body": MARKUP}, "Status 502", "refused without a reason"),
        ({"status": 200, "content_type": "application/json", "body": "{"}, "Not reachable", "cut off"),
    ],
)
def test_a_refusal_is_shown_as_text(server: Any, visit: Visit, answer: dict[str, Any], headline: str, detail: str) -> None:
    visit.open(server)
    visit.page.route("**/predict/npy", lambda route: route.fulfill(**answer))
    visit.draw((0.5, 0.2), (0.5, 0.8))
    assert visit.classify() == "problem"
    assert visit.text("#headline") == headline
    assert detail in visit.text("#detail")
    assert visit.page.locator("img[src=x]").count() == 0


def test_of_many_places_the_first_five_are_shown(server: Any, visit: Visit) -> None:
    visit.open(server)
    places = [{"pointer": f"/images/{i}", "detail": MARKUP} for i in range(9)]
    visit.page.route("**/predict/npy", lambda route: route.fulfill(**problem_of(422, errors=places)))
    visit.draw((0.5, 0.2), (0.5, 0.8))
    visit.classify()
    assert visit.page.locator("#problems li").all_inner_texts() == [f"/images/{i} {MARKUP}" for i in range(5)]


def test_after_a_401_a_key_is_asked_for_and_sent_as_a_bearer_token(server: Any, visit: Visit) -> None:
    visit.open(server)

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(**problem_of(401))

    visit.page.route("**/predict/npy", guard)
    expect(visit.page.locator("#key")).to_be_hidden()
    visit.draw((0.5, 0.2), (0.5, 0.8))
    assert visit.classify() == "problem"
    expect(visit.page.locator("#key")).to_be_focused()
    visit.page.keyboard.type("open sesame")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#answer")).to_have_attribute("data-kind", "answered")
    assert visit.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
