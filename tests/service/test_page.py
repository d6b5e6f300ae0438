"""The page at `/`, in a real browser, served by the real service."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from tests.support.server import Server, wait_until

CHROMIUM = shutil.which("chromium")
KEY = "k" * 20
TEXTS = ["Stocks fell on Monday.", "A cat sat on the mat.", "Rain is likely in the evening."]

expect.set_options(timeout=30_000)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: install Debian's package chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # A Space has a public address. The one here is local: other sites may frame it only if the user permits that.
        options = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, service):
    """A function that opens the page, with options for the browser's context. No error may reach its console."""
    contexts, troubles = [], []

    def watch(message, allowed):
        if message.type == "error" and (not allowed or allowed not in message.text):
            troubles.append(message.text)

    def open_page(url=service.url, allowed="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: watch(message, allowed))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def fill(page, query, texts):
    page.get_by_label("Search for").fill(query)
    page.get_by_label("among these texts").fill("\n".join(texts))


def ranking(page):
    return page.locator("#ranking .text").all_inner_texts()


def rank(page, query, texts):
    fill(page, query, texts)
    page.get_by_role("button", name="Rank the texts").click()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")


def test_it_shows_a_ranking_as_soon_as_it_is_there(open_page):
    page = open_page()
    expect(page.locator("#ranking li")).to_have_count(8)
    expect(page.get_by_role("status").first).to_contain_text("8 texts and the query have")
    assert page.locator("#heatmap tbody tr").count() == 8


def test_ranking(open_page):
    page = open_page()
    rank(page, "where did the cat sit?", TEXTS)
    expect(page.locator("#ranking li")).to_have_count(3)
    assert ranking(page)[0] == "A cat sat on the mat."
    scores = [float(score) for score in page.locator("#ranking .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


def test_enter_in_the_query_ranks(open_page):
    page = open_page()
    fill(page, "the weather", TEXTS)
    page.get_by_label("Search for").press("Enter")
    expect(page.locator("#ranking .text").first).to_have_text("Rain is likely in the evening.")


# The demo model has no query prompt.
@pytest.mark.bge
def test_options_show_what_they_change(open_page):
    page = open_page()
    rank(page, "where did the cat sit?", TEXTS)
    page.get_by_label("is_query").uncheck()
    expect(page.locator("#ranking .note").first).to_contain_text("was 0.")
    expect(page.get_by_label("is_query")).to_be_focused()
    expect(page.locator("#curl")).not_to_contain_text("is_query")
    expect(page.locator("#vector-hint")).to_contain_text("length is 1.000")
    page.get_by_label("normalize").uncheck()
    expect(page.locator("#vector-hint")).not_to_contain_text("length is 1.000")
    expect(page.locator("#curl")).to_contain_text('"normalize":false')
    expect(page.locator("#scale")).to_contain_text("dot products")


def test_a_vector_can_be_chosen(open_page):
    page = open_page()
    expect(page.locator("#ranking li")).to_have_count(8)
    before = page.locator("#vector-hint").inner_text()
    page.get_by_label("The vector of").select_option("3")
    expect(page.locator("#vector-hint")).not_to_have_text(before)


@pytest.mark.parametrize(
    ("query", "texts", "field", "message"),
    [
        (" ", TEXTS, "Search for", "Must not be blank."),
        ("cats", [], "among these texts", "Must hold at least one text."),
    ],
)
def test_errors_are_shown_beside_the_field(open_page, query, texts, field, message):
    page = open_page(allowed="422")
    expect(page.locator("#ranking li")).to_have_count(8)
    rank(page, query, texts)
    label = page.get_by_label(field)
    expect(label).to_be_focused()
    expect(label).to_have_attribute("aria-invalid", "true")
    expect(page.locator(f"#{label.get_attribute('aria-describedby')}")).to_have_text(message)
    rank(page, "cats", TEXTS)
    expect(label).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#ranking li")).to_have_count(3)


def test_html_stays_text(open_page):
    page = open_page()
    evil = '<img src=x onerror="document.title=1"> <b>bold</b> \'"; `$(id)`'
    rank(page, evil, [evil, "</textarea><script>document.title=1</script>"])
    expect(page.locator("#ranking li")).to_have_count(2)
    assert evil in ranking(page)
    assert page.locator("#ranking img, #ranking b, #heatmap img").count() == 0
    assert page.title() != "1"


def test_a_long_list_shows_how_far_it_is_and_can_be_stopped(open_page):
    page = open_page()
    expect(page.locator("#ranking li")).to_have_count(8)
    answered = []

    def answer_some(route):
        # The others wait until the page gives up on them.
        if len(answered) < 3:
            answered.append(route)
            route.continue_()

    page.route("**/embed", answer_some)
    fill(page, "the weather", [f"Text number {number} of a long list" for number in range(200)])
    page.get_by_role("button", name="Rank the texts").click()
    progress = page.get_by_role("progressbar")
    expect(progress).to_be_visible()
    wait_until(lambda: progress.evaluate("bar => bar.value") >= 32)
    page.get_by_role("button", name="Stop").click()
    expect(progress).to_be_hidden()
    expect(page.locator("#figures")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Rank the texts")).to_be_focused()
    expect(page.locator("#results")).to_have_class("old")


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, "<h1>Bad gateway</h1>"), (502, '{"detail": "bad"}'), (502, '{"error": "bad"}'), (200, "<h1>Asleep</h1>")],
)
def test_an_answer_that_is_not_of_the_service_is_reported(open_page, status, body):
    page = open_page(allowed="502")
    expect(page.locator("#ranking li")).to_have_count(8)
    page.route("**/embed", lambda route: route.fulfill(status=status, body=body))
    rank(page, "cats", TEXTS)
    expect(page.locator("#form-error")).to_contain_text(f"status {status}")
    expect(page.locator("#results")).to_have_class("old")


def test_it_waits_for_a_busy_service(open_page):
    page = open_page(allowed="503")
    expect(page.locator("#ranking li")).to_have_count(8)
    refused = []

    def refuse_once(route):
        if refused:
            route.continue_()
        else:
            refused.append(route)
            route.fulfill(status=503, headers={"Retry-After": "3"}, json={"error": {"message": "busy", "param": None}})

    page.route("**/embed", refuse_once)
    fill(page, "cats", TEXTS)
    page.get_by_role("button", name="Rank the texts").click()
    expect(page.locator("#figures")).to_contain_text("Trying again in 3 s")
    expect(page.locator("#figures")).to_contain_text("3000 until the service had room")


def test_a_service_that_cannot_be_reached_is_reported(open_page):
    page = open_page(allowed="ERR_FAILED")
    expect(page.locator("#ranking li")).to_have_count(8)
    page.route("**/embed", lambda route: route.abort())
    rank(page, "cats", TEXTS)
    expect(page.locator("#form-error")).to_contain_text("cannot be reached")


def test_each_line_is_a_text(open_page):
    page = open_page()
    rank(page, "a cat", ["dogs, mice"])
    rank(page, "a cat", ["dogs", "", " mice", ""])
    expect(page.locator("#ranking li")).to_have_count(2)
    assert sorted(page.locator("#ranking .line").all_inner_texts()) == ["line 1", "line 3"]
    assert page.locator("#ranking .note").all_inner_texts() == ["", ""]
    assert page.locator("#heatmap tbody th").all_inner_texts() == ["1", "3"]


def test_a_text_that_is_cut_is_marked(open_page):
    page = open_page()
    rank(page, "words", ["a short one", "word " * 600])
    expect(page.locator("#ranking .note", has_text="cut at")).to_have_count(1)
    expect(page.locator("#figures")).to_contain_text("tokens: 1 text.")


def test_snippets_say_what_they_leave_out(open_page):
    page = open_page()
    fill(page, "cats", [f"text {number}" for number in range(21)])
    expect(page.locator("#shown")).to_have_text("They have the first 20 of the 21 texts.")
    fill(page, "cats", TEXTS)
    expect(page.locator("#shown")).to_have_text("")


@pytest.mark.parametrize("snippet", ["curl", "python", "openai"])
@pytest.mark.parametrize("query", ["where did the cat sit?", 'it\'s "quoted" \\ and $HOME'])
def test_a_copied_snippet_runs(open_page, service, snippet, query):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    rank(page, query, TEXTS)
    page.locator(f"[data-snippet={snippet}]").click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    command = ["sh", "-c"] if snippet == "curl" else [sys.executable, "-c"]
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if snippet == "curl":
        texts, asked = re.findall(r"\{.*?\}", done.stdout)
        assert json.loads(texts)["embeddings"] == service.embed(TEXTS).json["embeddings"]
        assert json.loads(asked)["embeddings"] == service.embed(query, is_query=True).json["embeddings"]
    else:
        assert [line.split("  ", 1)[1] for line in done.stdout.splitlines()] == ranking(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_is_accessible_and_fits(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    expect(page.locator("#ranking li")).to_have_count(8)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = Axe().run(page).response["violations"]
    assert [violation["id"] for violation in violations] == []


def test_it_is_small_and_does_not_jump(browser, service):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    sizes = []
    page.on("response", lambda response: response.request.method == "GET" and sizes.append(len(response.body())))
    page.add_init_script(
        "window.jumps = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
        " window.jumps += entry.value; }).observe({ type: 'layout-shift', buffered: true });"
    )
    page.goto(service.url)
    expect(page.locator("#ranking li")).to_have_count(8)
    assert 10_000 < sum(sizes) < 100_000
    assert page.evaluate("window.jumps") < 0.05
    page.close()


def frame_of(page, origin, service):
    """The page in a frame of a page of another origin."""
    page.route(
        f"{origin}/**",
        lambda route: route.fulfill(
            content_type="text/html", body=f'<iframe src="{service.url}/" width="600" height="600"></iframe>'
        ),
    )
    page.goto(f"{origin}/spaces/somebody/embedding")
    return page.frame_locator("iframe")


def test_it_works_in_the_frame_of_a_space(open_page, service):
    page = open_page("about:blank")
    frame = frame_of(page, "https://huggingface.co", service)
    expect(frame.locator("#ranking li")).to_have_count(8)
    frame.get_by_role("button", name="Copy").first.click()
    expect(frame.locator("#copied")).to_have_text("Copied.")


def test_no_other_site_may_frame_it(open_page, service):
    page = open_page("about:blank", allowed="frame-ancestors")
    frame = frame_of(page, "https://other.example", service)
    page.wait_for_timeout(1000)
    assert frame.locator("#ranking").count() == 0


def test_a_key_is_asked_for_where_one_is_needed(open_page, tmp_path):
    environment = {"WEB_CONCURRENCY": "1", "EMBEDDING_API_KEYS": KEY}
    with Server(environment, tmp_path, ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        page = open_page(server.url, allowed="401")
        rank(page, "a", ["a", "b"])
        expect(page.locator("#key-error")).to_have_text("Type an API key here.")
        page.get_by_label("API key").fill("ключ")
        rank(page, "a", ["a", "b"])
        expect(page.locator("#key-error")).to_contain_text("no such characters")
        page.get_by_label("API key").fill(KEY)
        rank(page, "a", ["a", "b"])
        expect(page.locator("#ranking li")).to_have_count(2)
        assert KEY not in page.locator("#snippets").inner_text()
        assert "$API_KEY" in page.locator("#curl").inner_text()


def test_the_page_of_all_calls_runs_one(open_page, service):
    page = open_page(f"{service.url}/docs")
    page.locator("#operations-embed-embed .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
