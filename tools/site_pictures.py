"""Pictures and sounds of the site: files of their own, that a browser fetches when they come into view; and words for
those who do not see them.
"""
import base64
import hashlib
import html
import re
import struct
from pathlib import Path

from moosa.core import atomic_write

ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/svg+xml": "svg", "audio/wav": "wav",
           "audio/x-wav": "wav", "audio/mpeg": "mp3", "video/mp4": "mp4"}
HELD = re.compile(r'data:([a-z]+/[a-z0-9+-]+);base64,([A-Za-z0-9+/=\s]{1000,})(?=["\'])')
LONGEST = 160  # characters; what is read aloud before a listener can go on


def write(mime: str, coded: str, folder: Path) -> str:
    "Write what a page holds to a file that is named by its content; return that name."
    data = base64.b64decode(coded)
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.{ENDINGS.get(mime, 'bin')}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder/name).exists():  # another process may write the same one, or read it
        with atomic_write(folder/name, "wb") as file: file.write(data)
    return name


def size(file: Path) -> tuple[int, int] | None:
    "Width and height of a PNG, in pixels."
    head = file.read_bytes()[:24]
    return struct.unpack(">II", head[16:24]) if head[:8] == b"\x89PNG\r\n\x1a\n" else None


def plain_text(part: str) -> str:
    without = re.sub(r"<(math|script|style)\b.*?</\1>|<[^>]+>", " ", part, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(without)).strip()


def words_before(page: str, start: int) -> str:
    "What a picture shows, as the page says: heading and last sentence before it."
    before = page[max(0, start - 20000):start]
    headings = re.findall(r"<h[1-6]\b[^>]*>(.*?)</h[1-6]>", before, re.S)
    prose = re.findall(r"<p>(.*?)</p>", before[before.rfind("</h"):], re.S)
    spoken = [text for part in prose if (text := plain_text(part))]
    heading, last = plain_text(headings[-1]) if headings else "", spoken[-1] if spoken else ""
    last = re.split(r"(?<=[.!?]) (?=[A-Z])", last)[-1].rstrip(":")
    said = ": ".join(part for part in (heading, last) if part) or "Picture"
    return said if len(said) <= LONGEST else said[:LONGEST].rsplit(" ", 1)[0] + " ..."


def described(page: str) -> str:
    "Give each picture without words those of its caption, or else of the page; let it load when it comes into view."
    def mend(m: re.Match) -> str:
        tag = m[0]
        if not re.search(r"""\balt=("[^"]+"|'[^']+')""", tag):
            caption = re.search(r"<figcaption>(.*?)</figcaption>", page[m.end():m.end() + 2000], re.S)
            near = caption and "<img" not in page[m.end():m.end() + caption.start()]
            said = plain_text(caption[1]) if near else words_before(page, m.start())
            tag = re.sub(r'\s*\balt=""|^<img', lambda part: "<img" if part[0] == "<img" else "", tag)
            tag = tag.replace("<img", f'<img alt="{html.escape(said)}"', 1)
        return tag if "loading=" in tag else tag.replace("<img", '<img loading="lazy"', 1)

    return re.sub(r"<img\b[^>]*>", mend, page)


def as_files(page: str, up: str, folder: Path) -> str:  # up: from the page to the site's root, such as `../`
    "Replace pictures and sounds that stand in a page by files in `folder`."
    def file_of(m: re.Match) -> str: return f"{up}{folder.name}/{write(m[1], m[2], folder)}"

    return re.sub(r"<audio\b(?![^>]*preload)", '<audio preload="none"', HELD.sub(file_of, page))


def measured(page: str, folder: Path) -> str:
    "Pictures with their height, so that nothing jumps when one comes."
    def mend(m: re.Match) -> str:
        found = size(folder/m[2]) if "height=" not in m[0] and (folder/m[2]).suffix == ".png" else None
        if not found: return m[0]
        width = re.search(r'width="(\d+)', m[0])
        shown = int(width[1]) if width else found[0]
        sizes = f'height="{round(shown*found[1]/found[0])}"' + ("" if width else f' width="{shown}"')
        return m[0].replace("<img", f"<img {sizes}", 1)

    return re.sub(rf'<img\b([^>]*?{re.escape(folder.name)}/([0-9a-f]{{16}}\.png)[^>]*)>', mend, page)
