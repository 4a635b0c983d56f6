"""The HTML reports stand alone, escape what strangers write, and repeat exactly."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from apex_sim.report.page import search_page, simulation_page

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and texts, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(result) -> Page:
    return Page(search_page(result))


def test_answers_in_plain_words(page, result):
    assert "Serve llama-3.1-70b on 8xh100-sxm with DP1 TP8 PP1 fp8." in page.text
    for heading in ("Ranked plans", "Where the time goes", "Latency", "Memory", "Plans that cannot run", "Provenance"):
        assert heading in page.text
    assert result.provenance.workload_sha256 in page.text
    assert "3 plans looked at: 2 simulated on the whole workload, 1 cannot run or run as another." in page.text


def test_loads_nothing(page):
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "image"}
        assert "src" not in attributes
        address = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert address.startswith("#") or (tag == "a" and address.startswith("https://"))
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none';")


def test_style_sheets_fetch_nothing(result):
    fetched = re.findall(r"url\((?!#)[^)]*\)|@import", search_page(result))
    assert fetched == []


def test_the_policy_admits_the_one_script_there_is(page):
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_strangers_write_is_text_and_nothing_else(page, hostile):
    text = search_page(hostile)
    attacked = Page(text)
    assert "<script>alert" not in text
    assert "<b>" not in text
    assert "<script>alert(1)</script> $x$ & <b>" in attacked.text
    # Title, study, hardware, workload, notes: no element more or fewer than with tame texts, links apart.
    count = [sum(tag != "a" for tag, _ in p.elements) for p in (attacked, page)]
    assert count[0] == count[1]


def test_ranks_every_plan_with_sortable_values(page, result):
    ranks = [a["data-value"] for tag, a in page.elements if tag == "td" and "data-value" in a][:: 1 + 9]
    assert [float(rank) for rank in ranks] == [1.0, 2.0]
    values = [a["data-value"] for tag, a in page.elements if tag == "td" and "data-value" in a]
    assert float(values[1]) == result.plans[0].metrics["e2e_mean_s"]


def test_repeats_exactly(result, simulation):
    assert search_page(result) == search_page(result)
    assert simulation_page(simulation) == simulation_page(simulation)


def test_no_plan_that_runs(nothing_fits):
    page = Page(search_page(nothing_fits))
    assert "No plan answers the question" in page.text
    assert "No plan can run llama-3.1-70b" in page.text
    assert "Ranked plans" not in page.text


def test_undefined_metrics_and_unsteady_plans(undefined):
    page = Page(search_page(undefined))
    assert "unsteady : the backlog grows" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text


def test_simulation_page(simulation):
    page = Page(simulation_page(simulation))
    assert "DP1 TP8 PP1 fp8" in page.text
    assert "output throughput" in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) >= 5


def test_addresses_become_links_without_the_punctuation_after_them(result):
    hrefs = [a["href"] for tag, a in Page(search_page(result)).elements if tag == "a"]
    assert hrefs
    assert not [href for href in hrefs if href[-1] in ".,;:)"]
