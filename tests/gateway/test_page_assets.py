"""The files of the live page as they are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

from polyslo.gateway.page.assets import FOLDER, Asset, load_assets
from polyslo.report.palette import DARK, LIGHT

READABLE_CONTRAST = 4.5


@pytest.fixture(scope="module")
def assets() -> Mapping[str, Asset]:
    """All files of the page."""
    return load_assets()


def text_of(asset: Asset) -> str:
    """Decode a file."""
    return asset.body.decode("utf-8")


def colours(assets: Mapping[str, Asset]) -> dict[str, tuple[str, str]]:
    """Read each role's light and dark colour."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", text_of(assets["/page/colours.css"]))
    return {role: (light, dark) for role, light, dark in found}


def contrast(one: str, other: str) -> float:
    """Compute the contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_the_document_is_at_the_root(assets: Mapping[str, Asset]) -> None:
    """`/` gives the document; nothing else lies outside the folder."""
    assert assets["/"].content_type == b"text/html; charset=utf-8"
    assert assets["/"].body.startswith(b"<!DOCTYPE html>")
    assert all(path == "/" or path.startswith(FOLDER) for path in assets)


def test_etags_name_the_content(assets: Mapping[str, Asset]) -> None:
    """Two loads agree on every etag, and no two files share one."""
    again = load_assets()
    assert {path: asset.etag for path, asset in again.items()} == {path: asset.etag for path, asset in assets.items()}
    assert len({asset.etag for asset in assets.values()}) == len(assets)


@pytest.mark.parametrize(
    ("header", "is_held"),
    [("{etag}", True), ("W/{etag}", True), ('"other", {etag}', True), ("*", True), ('"other"', False), ("", False)],
)
def test_if_none_match_is_compared_weakly(assets: Mapping[str, Asset], header: str, is_held: bool) -> None:
    """A client that names this version, alone or among others, holds it."""
    asset = assets["/"]
    assert asset.is_held_by(header.format(etag=asset.etag.decode()).encode()) is is_held


def test_a_client_without_if_none_match_holds_nothing(assets: Mapping[str, Asset]) -> None:
    """The header's absence means that the file must be sent."""
    assert not assets["/"].is_held_by(None)


def test_headers_forbid_inline_code_and_other_origins(assets: Mapping[str, Asset]) -> None:
    """The policy starts from nothing and allows this origin only, without `unsafe-inline`."""
    headers = dict(assets["/"].headers())
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_the_document_has_no_inline_script_or_style(assets: Mapping[str, Asset]) -> None:
    """What the policy would block is not there: script or style text, style attributes, event attributes."""
    html = text_of(assets["/"])
    assert all(not body.strip() for body in re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL))
    assert "<style" not in html
    assert not re.search(r"\s(style|on\w+)=", html)


def test_every_reference_leads_to_a_file(assets: Mapping[str, Asset]) -> None:
    """Links, sources and imports all name files that are there, relative, so that a path prefix in front works."""
    references = [
        (PurePosixPath("/"), name) for name in re.findall(r'(?:src|href)="(page/[^"]+)"', text_of(assets["/"]))
    ]
    for path, asset in assets.items():
        if path.endswith(".js"):
            references += [(PurePosixPath(FOLDER), name) for name in re.findall(r'from "\./([^"]+)"', text_of(asset))]
    assert references
    assert [str(folder / name) for folder, name in references if str(folder / name) not in assets] == []


def test_every_file_is_used(assets: Mapping[str, Asset]) -> None:
    """No file of the page is left over."""
    everything = " ".join(text_of(asset) for asset in assets.values())
    assert [path for path in assets if path != "/" and path.rpartition("/")[2] not in everything] == []


def test_nothing_comes_from_elsewhere(assets: Mapping[str, Asset]) -> None:
    """The only addresses in the files are namespaces and examples in the words for empty pages."""
    allowed = {"http://www.w3.org/2000/svg"}
    found = {url for asset in assets.values() for url in re.findall(r"https?://[\w./-]+", text_of(asset))}
    assert {url for url in found if not url.startswith("http://10.0.0.")} == allowed


def test_scripts_write_text_never_markup(assets: Mapping[str, Asset]) -> None:
    """No script uses a way to turn a string into elements or code."""
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")
    assert [path for path, asset in assets.items() if path.endswith(".js") and forbidden.search(text_of(asset))] == []


def test_colours_are_those_of_the_reports(assets: Mapping[str, Asset]) -> None:
    """Every colour of the live page is the reports' colour of the same role, in both themes."""
    light, dark = LIGHT.colours(), DARK.colours()
    found = colours(assets)
    assert {"ink", "muted", "surface", "tier-0", "tier-11"} <= found.keys()
    assert found == {role: (light[role], dark[role]) for role in found}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["surface", "panel"])
@pytest.mark.parametrize("ink", ["ink", "muted", "policy-ours-0", "policy-ours-1"])
def test_text_is_readable(assets: Mapping[str, Asset], ink: str, ground: str, theme: int) -> None:
    """Every colour that text has stands out from every ground that text stands on."""
    found = colours(assets)
    assert contrast(found[ink][theme], found[ground][theme]) >= READABLE_CONTRAST
