"""HTML of questions and answers -> plain text that keeps paragraphs, lists and code."""

import re
from html.parser import HTMLParser

from useful_code.reasons import RowRefused

_BLOCKS = {"p", "div", "blockquote", "table", "tr", "hr", "ul", "ol", *(f"h{level}" for level in range(1, 7))}
_SPACE = re.compile(r"[ \t\n\r\f]+")


def text_of_html(html: str, where: str = "text") -> str:
    r"""The text of a piece of HTML: blocks apart by blank lines, "- " before list items, code in fences or backticks.

    Addresses of links and images are left out. Raises `RowRefused` for what the parser cannot read.

    >>> text_of_html("<p>Use\n<code>a &lt; b</code>:</p>\n\n<pre><code>if a &lt; b:\n    go()\n</code></pre><p>Done.")
    'Use `a < b`:\n\n```\nif a < b:\n    go()\n```\n\nDone.'
    """
    reader = _Reader()
    try:
        reader.feed(html)
        reader.close()
    except AssertionError as error:  # how the parser of the standard library refuses some "<!["
        raise RowRefused("wrong_type", f"{where} is no HTML that can be read: {str(error)[:80]}") from None
    return reader.text()


class _Reader(HTMLParser):
    """Collects finished blocks, and the words of the block that is being read."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[str] = []
        self._words: list[str] = []
        self._code: list[str] | None = None  # the content of a <pre>; None outside of one
        self._lists: list[int | None] = []  # of the open lists: the number of the last item, None without numbers
        self._item = ""  # what to write before the words of the next block

    def text(self) -> str:
        self._end_code()
        self._end_block()
        return "\n\n".join(self._blocks)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self._end_code()
            self._end_block()
            self._code = []
        elif self._code is not None:
            self._code += ["\n"] if tag == "br" else []
        elif tag in _BLOCKS:
            self._end_block()
            if tag in ("ul", "ol"):
                self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._end_block()
            self._item = self._marker()
        elif tag == "br":
            self._words.append("\0")  # a line break that survives the joining of white space
        elif tag in ("td", "th"):
            self._words.append(" ")
        elif tag == "code":
            self._words.append("`")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._end_code()
        elif self._code is not None:
            return
        elif tag in _BLOCKS or tag == "li":
            self._end_block()
            if tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            if tag == "li":
                self._item = ""  # of an empty item
        elif tag == "code":
            self._words.append("`")

    def handle_data(self, data: str) -> None:
        (self._words if self._code is None else self._code).append(data.replace("\0", ""))

    def _marker(self) -> str:
        indent = "  " * max(0, len(self._lists) - 1)
        if self._lists and self._lists[-1] is not None:
            self._lists[-1] += 1
            return f"{indent}{self._lists[-1]}. "
        return f"{indent}- "

    def _end_block(self) -> None:
        lines = [line.strip() for line in _SPACE.sub(" ", "".join(self._words)).split("\0")]
        self._words = []
        block = "\n".join(lines).strip("\n")
        if block:
            self._blocks.append(self._item + block)
            self._item = ""

    def _end_code(self) -> None:
        if self._code is None:
            return
        code = "".join(self._code).strip("\n").rstrip()
        self._code = None
        if code:
            longest = max((len(ticks) for ticks in re.findall("`+", code)), default=0)
            fence = "`" * max(3, longest + 1)  # a fence must be longer than any in the code
            self._blocks.append(f"{self._item}{fence}\n{code}\n{fence}")
            self._item = ""
