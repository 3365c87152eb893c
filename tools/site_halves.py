"""Two processes share the pages that smalldocs would render one after another.

It is imported for what it does: the first page that is to be rendered brings all others.
"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from smalldocs.site import Site

render_one = Site.render_page
SITES: list[Site] = []  # the one that is built, which processes that are forked from this one have, too


def rendered(source) -> tuple:
    "Render a page in a process of its own, and return all that this changes of page and site."
    (site,) = SITES
    page, broken, warnings, resources = site.pages[source], len(site.broken), len(site.warnings), {*site.resources}
    render_one(site, page)
    env = {name: value for name, value in page.env.items() if name != "link"}  # a function cannot be handed over
    return page.html, env, site.broken[broken:], site.warnings[warnings:], site.resources - resources


def render_all(site: Site, asked):
    "Render all pages of a site, whichever was asked for, once."
    if site in SITES: return
    SITES[:] = [site]
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        for page, found in zip(site.pages.values(), pool.map(rendered, site.pages, chunksize=8)):
            page.html, page.env, broken, warnings, resources = found
            page.env["link"] = lambda href, kind, page=page: site.resolve(href, page)
            site.broken += broken
            for warning in warnings: site.warn(warning)
            site.resources |= resources


Site.render_page = render_all
