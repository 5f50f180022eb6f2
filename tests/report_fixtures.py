"""Fixtures of tests that look at pages; MMEngine is imported late."""

import os
import shutil

import pytest


@pytest.fixture(scope='session')
def networks(tmp_path_factory):
    """Config and checkpoint of a two-branch and of a stock network."""
    from report_case import save_network, write_networks

    folder = tmp_path_factory.mktemp('networks')
    configs = write_networks(folder)
    return [(str(config), str(save_network(config))) for config in configs]


@pytest.fixture(scope='session')
def browser():
    """Chromium, headless."""
    api = pytest.importorskip('playwright.sync_api')
    path = shutil.which('chromium')
    if path is None:
        pytest.skip('needs chromium')
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=['--no-sandbox'] * (os.getuid() == 0)
        )
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser):
    """Opens an address; lists what it asks others for, and its errors."""
    contexts = []

    def open_(address, width=1280, **options):
        context = browser.new_context(
            viewport={'width': width, 'height': 900}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.troubles = []

        def route(route):
            own = ('data:', 'blob:', address)
            if not route.request.url.startswith(own):
                page.troubles.append(route.request.url)
                return route.abort()
            return route.continue_()

        context.route('**/*', route)
        page.on('pageerror', lambda error: page.troubles.append(str(error)))
        page.on(
            'console',
            lambda message: (
                message.type == 'error' and page.troubles.append(message.text)
            ),
        )
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
