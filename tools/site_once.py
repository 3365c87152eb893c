"""What smalldocs makes anew for each page, made once: links, and the sidebar, which takes longer than the text.

It is imported for what it does: parts of smalldocs are replaced by such as give the same.
"""
import functools
import posixpath

import smalldocs.highlight
from fastcore.xml import Safe, to_xml
from smalldocs.layout import Layout

link_on_page, item_on_page = Layout.href, Layout.side_item


def kept(layout, kind: str) -> dict:
    "What was made for pages of the same folder: links are relative, so only these have the same."
    folder = posixpath.dirname(str(layout.page.out))
    return vars(layout.site).setdefault(f"{kind}_from", {}).setdefault(folder, {})


def link_in_folder(layout, address: str) -> str:
    "A link of the sidebar. smalldocs would look through all pages for each link on each page: 180,000 times."
    links = kept(layout, "links")
    if address not in links: links[address] = link_on_page(layout, address)
    return links[address]


def item_in_folder(layout, item, depth: int):
    "An entry of the sidebar, with those below it. Only the few that lead to the page itself look different on it."
    if item.contains(layout.page): return item_on_page(layout, item, depth)
    items = kept(layout, "items")
    if id(item) not in items:
        before = layout.n_section
        html = Safe(to_xml(item_on_page(layout, item, depth), indent=False))
        items[id(item)] = html, layout.n_section - before
        return html
    html, sections = items[id(item)]
    layout.n_section += sections  # they are numbered from the top
    return html


Layout.href, Layout.side_item = link_in_folder, item_in_folder
smalldocs.highlight.css_class = functools.cache(smalldocs.highlight.css_class)  # asked for each of a million words
