"""A real browser watches a run in which a worker is killed and another is slow, and is held against the ledger.

    python3.11 -m venv .venv && . .venv/bin/activate && pip install -r tests/peers/requirements-browser.txt
    apt install chromium chromium-driver && cargo build --release && python tests/peers/live_page.py

Looks in light, in dark and as wide as a phone, leaves a picture of each in runs/live-page, and exits with 1 where a number on
the page is not the ledger's, the console has an error, something is asked for elsewhere, or the page is wider than its window.
"""

import argparse
import base64
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from watched import Process, wait_until

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/tiny-bert"
UPDATES = 480
"""Fewer than a curve has buckets, so that the page has each update for itself."""
RECIPE = (
    "--model_name_or_path model --do_train --train_file train.jsonl --do_eval --validation_file dev.jsonl --max_seq_length 64 "
    "--per_device_train_batch_size 40 --learning_rate 1e-3 --warmup_ratio 0.1 --threads 1 --output_dir out "
    "--eval_strategy steps --eval_steps 60 --save_strategy steps --save_steps 80 --logging_steps 20 --workers 2 --disable_tqdm "
    "--http_listen 127.0.0.1:0"
)
CHAOS = "kill:worker=1@update=100;slow:worker=0@update=150,factor=6,until=330"
BROWSER = ("--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
           "--disable-sync --no-first-run --hide-scrollbars")
LOOKS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390), "phone-dark": ("dark", 390)}
PATIENCE_S = 300
CURVES = {"Loss": ["loss"], "Learning rate": ["learning_rate"], "Gradient norm, before clipping": ["grad_norm"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, default=ROOT / "target/release", help="the folder with medley")
    parser.add_argument("--pictures", type=Path, default=ROOT / "runs/live-page", help="where the pictures go")
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        command = [str(given.binaries.absolute() / "medley"), "train", *RECIPE.split(), "--max_steps", str(UPDATES), "--chaos", CHAOS]
        # First of the two, as it takes long to start.
        browser = Browser(folder / "profile")
        try:
            run = Process(command, folder)
            try:
                watch(run, browser, folder, given.pictures, wrong)
            finally:
                run.kill()
        finally:
            browser.driver.quit()
    for line in wrong:
        print(f"WRONG  {line}")
    print(f"{len(wrong)} things are wrong; the pictures are in {given.pictures}")
    return 1 if wrong else 0


def prepare(folder: Path) -> None:
    """A tiny BERT and rows of the fixtures."""
    shutil.copytree(FIXTURES / "model", folder / "model")
    rows = (FIXTURES / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "train.jsonl").write_text("\n".join(rows[:120]), encoding="utf-8")
    (folder / "dev.jsonl").write_text("\n".join(rows[120:]), encoding="utf-8")


class Browser:
    """A headless Chromium with a profile of its own, and what it has asked for and complained of."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in [*BROWSER.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))

    def look(self, scheme: str, width: int) -> None:
        """From now on, as a window of this width in this colour scheme."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 2 if width < 500 else 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        # Two frames: charts are drawn anew once their width is known.
        self.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")

    def picture(self, path: Path) -> None:
        """Saves the whole page as a PNG."""
        width, height = self.driver.execute_script("const it = document.documentElement; return [innerWidth, it.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def texts(self, *selectors: str) -> list[list[str]]:
        """What all elements of each selector say at one moment: the page draws them anew all the time."""
        script = "return [...arguments].map(it => [...document.querySelectorAll(it)].map(found => found.textContent))"
        return self.driver.execute_script(script, *selectors)

    def text(self, selector: str) -> str:
        return self.texts(selector)[0][0]

    def wait(self, condition) -> None:
        WebDriverWait(self.driver, PATIENCE_S, 0.1).until(lambda _: condition())

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def asked(self) -> set[str]:
        """Whatever it has asked for so far."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"}


def watch(run: Process, browser: Browser, folder: Path, pictures: Path, wrong: list[str]) -> None:
    """Looks at the page through the run, and says what is wrong."""
    line = run.wait_for("health and metrics on http://").what
    page = re.search(r"http://[\d.]+:\d+", line)[0]
    browser.look(*LOOKS["light"])
    browser.driver.get(page)
    browser.wait(lambda: browser.text("#link") == "live")
    # On a machine with other work, somebody may be slow before.
    browser.wait(lambda: "lost" in browser.text("#moments") and "slow: " in browser.text("#lanes"))
    for name, look in LOOKS.items():
        browser.look(*look)
        overflow(browser, f"{name}, while it runs", wrong)
        browser.picture(pictures / f"running-{name}.png")
    told = by_keyboard(browser)
    without_scripts(browser, page, pictures, wrong)
    browser.driver.get(page)
    if run.end() != 0:
        wrong.append(f"the run failed:\n{run.text()}")
    browser.wait(lambda: browser.text("#state") == "completed")
    for name, look in LOOKS.items():
        browser.look(*look)
        overflow(browser, f"{name}, at the end", wrong)
        browser.picture(pictures / f"ended-{name}.png")
    against_the_ledger(browser, folder, told, wrong)
    readable(browser, wrong)
    wrong.extend(f"console: {complaint}" for complaint in browser.complaints())
    asked = browser.asked()
    wrong.extend(f"asked for {url}" for url in asked if not url.startswith((f"{page}/", "data:", "chrome:", "about:")))
    if f"{page}/events" not in asked:
        wrong.append(f"the run was not listened to: {sorted(asked)}")


def without_scripts(browser: Browser, page: str, pictures: Path, wrong: list[str]) -> None:
    """The page as it is sent."""
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.driver.get(page)
    body = browser.text("main")
    for shown in [f"of {UPDATES}", "2 of 2 workers", "Loss", "rank 0", "rows/s"]:
        if shown not in body:
            wrong.append(f"without scripts the page does not say {shown!r}")
    if not browser.driver.find_elements(By.CSS_SELECTOR, "#charts polyline"):
        wrong.append("without scripts the page has no curve")
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.picture(pictures / "without-scripts.png")


def by_keyboard(browser: Browser) -> tuple[int, str]:
    """Moves to an update with the keys alone; which it is, and its loss, as the page has it."""
    plot = browser.driver.find_element(By.CSS_SELECTOR, "#charts .plot")
    browser.driver.execute_script("arguments[0].focus()", plot)
    plot.send_keys(Keys.HOME)
    for _ in range(3):
        plot.send_keys(Keys.ARROW_RIGHT)
    when, loss = (found[0] for found in browser.texts("#charts .readout .when", "#charts .readout b"))
    return int(when.removeprefix("update ").replace(",", "")), loss


def overflow(browser: Browser, name: str, wrong: list[str]) -> None:
    wide, window = browser.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    if wide > window:
        wrong.append(f"{name}: the page is {wide} pixels wide in a window of {window}")


def shown(value: float | None) -> str:
    """A number as the page writes it."""
    if value is None:
        return "-"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return str(int(value))
    if not 1e-3 <= size < 1e6:
        digits, power = f"{value:.3e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.{2 if size >= 10 else 4}f}".rstrip("0").rstrip(".")


def against_the_ledger(browser: Browser, folder: Path, told: tuple[int, str], wrong: list[str]) -> None:
    """Whether the numbers on the page are those of the ledger and of the results."""
    records = [json.loads(line) for line in (folder / "out/ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    updates = {it["update"]: it for it in records if it["kind"] == "update"}
    evaluations = [it for it in records if it["kind"] == "evaluation"]
    results = json.loads((folder / "out/eval_results.json").read_text(encoding="utf-8"))
    update, loss = told
    same(f"the loss of update {update}, by keyboard", loss, shown(updates[update]["loss"]), wrong)
    checked = 0
    for figure in browser.driver.find_elements(By.CSS_SELECTOR, "#charts figure"):
        title = figure.find_element(By.TAG_NAME, "figcaption").text
        browser.driver.execute_script("arguments[0].querySelector('details').open = true", figure)
        wait_until(lambda: figure.find_elements(By.CSS_SELECTOR, "table tbody tr"), f"the table of {title}")
        rows = browser.driver.execute_script(
            "return [...arguments[0].querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))", figure)
        for row in rows:
            for column, key in enumerate(CURVES.get(title, []), start=1):
                if row[column]:
                    same(f"{title} of update {row[0]}", row[column], shown(updates[int(row[0])][key]), wrong)
                    checked += 1
    if checked < 60:
        wrong.append(f"the tables of the curves have {checked} values")
    figures = dict(zip(*browser.texts("#figures dt", "#figures dd"), strict=True))
    same("the last loss", figures["loss"].split("validation")[0], shown(updates[UPDATES]["loss"]), wrong)
    same("the accuracy", figures["accuracy"].split("macro")[0], shown(results["eval_accuracy"]), wrong)
    newest = evaluations[-1]
    same("the newest evaluation", browser.texts(".results tbody tr:first-child td")[0],
         [newest["split"], str(newest["update"]), *(shown(newest["entry"][f"eval_{key}"]) for key in ["accuracy", "macro_f1", "loss"])], wrong)
    counts = [int(cell.split()[0]) for cell in browser.texts(".confusion td[class]")[0]]
    same("the confusion matrix", counts, [count for row in results["eval_confusion_matrix"] for count in row], wrong)
    saved = [str(it["update"]) for it in records if it["kind"] == "checkpoint"]
    same("the checkpoints", re.findall(r"(?:updates?|,) (\d+)", browser.text("#checkpoints")), saved, wrong)
    if not any("1 worker lost" in title for title in browser.texts("#strip title")[0]):
        wrong.append("the page does not say that a worker was lost")


def same(what: str, found, expected, wrong: list[str]) -> None:
    if found != expected:
        wrong.append(f"{what} is {found}; expected {expected}")


def readable(browser: Browser, wrong: list[str]) -> None:
    """What a screen reader needs."""
    for svg in browser.driver.find_elements(By.CSS_SELECTOR, "svg[role=img]"):
        if len(svg.get_attribute("aria-label") or "") < 10:
            wrong.append(f"a picture says nothing: {svg.get_attribute('outerHTML')[:200]}")
    levels = [int(it.tag_name[1]) for it in browser.driver.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    if levels[:1] != [1] or levels.count(1) != 1 or len(levels) < 5:
        wrong.append(f"headings of levels {levels}")
    if browser.driver.find_elements(By.CSS_SELECTOR, "[style]"):
        wrong.append("an element has a style of its own")


if __name__ == "__main__":
    sys.exit(main())
