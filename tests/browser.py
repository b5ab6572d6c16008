"""A real browser without a screen: Chromium, Debian's, with scripts of pages switched off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from .debian import extracted, library_path

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it is taken from its package, without the sandbox's rights
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/usr/share/fonts</dir><cachedir>{folder}/fonts</cachedir></fontconfig>
"""


@contextmanager
def browser(folder: Path, *, width: int, height: int) -> Iterator[Chrome]:
    """The browser with a screen of that size, gone afterwards. What it needs lies in the folder."""
    there = folder / "debian"
    if not there.exists():
        extracted("chromium", "chromium-driver", "fonts-dejavu-core", into=there)
        (folder / "fonts.conf").write_text(FONTS.format(folder=there), encoding="utf-8")
    options = ChromeOptions()
    options.binary_location = str(there / "usr/lib/chromium/chromium")
    profile = folder / f"profile-{width}"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    # A window is at least 500 wide; a phone's screen is not.
    screen = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}}
    options.add_experimental_option("mobileEmulation", screen)
    options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.javascript": 2}
    )
    service = ChromeService(
        str(there / "usr/bin/chromedriver"),
        env={
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "LD_LIBRARY_PATH": ":".join(
                # A library of PulseAudio's lies in a folder of its own.
                [library_path(there), *map(str, there.glob("usr/lib/*/pulseaudio"))]
            ),
            "FONTCONFIG_FILE": str(folder / "fonts.conf"),
            "HOME": str(folder),
        },
    )
    driver = Chrome(options, service)
    try:
        yield driver
    finally:
        driver.quit()
