r"""Tables for people in the forms they need: Markdown for a README, LaTeX for a paper, rich for a terminal.

Names and notes come from files of other people: every form escapes them. LaTeX needs ``\usepackage{booktabs}`` and
no more; characters that pdfTeX does not know are spelled out as U+4E2D.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value, where there is one its interval or count, and the letters of the remarks on it: all text."""

    text: str
    interval: str = ""
    marks: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a reader sees, before any markup.

    Attributes:
        caption: What the table shows, in one sentence.
        header: Column heads.
        rows: Cells, one a column.
        names: How many columns from the left hold names; the others hold numbers.
        remarks: What the marks of its cells stand for: a letter and a text.
        notes: What must be read with it, the signature last.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: int = 1
    remarks: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def printable(text: str) -> str:
    """A name as one line without characters that do not print or that turn the text around them."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


# Markdown

_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>#|~$^@!&])")
_NUMBERS: Final = re.compile(r"[\d\s.,:+\-−–∞/%()\[\]]*")


def markdown(table: Table) -> str:
    """A table as GitHub writes them; what a name holds is text, whatever it looks like."""
    lines = [f"**{for_markdown(table.caption)}**", ""]
    lines.append("| " + " | ".join(map(for_markdown, table.header)) + " |")
    lines.append("|" + "|".join("---" if at < table.names else "---:" for at in range(len(table.header))) + "|")
    lines += [
        "| " + " | ".join(for_markdown(str(cell)) + _raised(cell.marks) for cell in row) + " |" for row in table.rows
    ]
    said = [f"{_raised(mark)} {for_markdown(text)}".strip() for mark, text in table.remarks]
    said += [for_markdown(note) for note in table.notes]
    return "\n".join([*lines, "", *(f"{one}  " for one in said), ""])


def _raised(marks: str) -> str:
    return f" <sup>{marks}</sup>" if marks else ""


def for_markdown(text: str) -> str:
    """Text of others as text in Markdown, on one line."""
    line = printable(text)
    if _NUMBERS.fullmatch(line):
        return line
    escaped = _MARKDOWN.sub(r"\\\1", line).replace("://", r"\://")
    return re.sub(r"(?i)\bwww\.", r"www\\.", re.sub(r"^([-+]|\d+(?=[.)]))", _first_escaped, escaped))


def _first_escaped(found: re.Match[str]) -> str:
    # A note that begins like an item of a list; digits cannot be escaped, the point behind them can.
    return f"\\{found[0]}" if found[0] in "+-" else f"{found[0]}\\"


# LaTeX

_LONG_HEAD: Final = 10
_LONG_NAME: Final = 22
"""Characters from which a head or a name takes two lines."""
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": "{`}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "²": "$^2$",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}


def latex(table: Table, *, label: str = "tab:monitors") -> str:
    """A ``table`` of booktabs: intervals small behind their value, notes below.

    Raises:
        ValueError: if the label holds more than letters, digits and ``:-.``.
    """
    if not re.fullmatch(r"[A-Za-z0-9:.\-]+", label):
        raise ValueError(f"label {label!r}, expected letters, digits, colons, points and hyphens alone")
    columns = "".join("l" if at < table.names else "r" for at in range(len(table.header)))
    heads = [_latex_head(head, at < table.names) for at, head in enumerate(table.header)]
    body = [
        " & ".join(_latex_cell(cell, at < table.names) for at, cell in enumerate(row)) + r" \\[0.4ex]"
        for row in table.rows
    ]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering",
            r"  \footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{for_latex(table.caption)}}}\vspace{{0.5ex}}",
            rf"  \label{{{label}}}",
            rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"    \toprule",
            "    " + " & ".join(heads) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            "",
            r"  \medskip",
            r"  \begin{minipage}{\linewidth}\footnotesize\raggedright",
            *(rf"    \textsuperscript{{{mark}}} {for_latex(text)}\par" for mark, text in table.remarks),
            *(f"    {for_latex(note)}\\par" for note in table.notes),
            r"  \end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _latex_head(head: str, name: bool) -> str:
    """A head; that of numbers in two lines where it is long."""
    words = re.split(" (?!%)", head)
    if name or len(head) < _LONG_HEAD or len(words) < 2:
        return for_latex(head)
    halves = [(" ".join(words[:at]), " ".join(words[at:])) for at in range(1, len(words))]
    return _latex_stack(*map(for_latex, min(halves, key=lambda half: max(map(len, half)))))


def _latex_cell(cell: Cell, name: bool) -> str:
    # In braces: a row that begins with [ or * would be read as an argument of the line before.
    text = "{" + for_latex(cell.text) + "}" + (rf"\textsuperscript{{{cell.marks}}}" if cell.marks else "")
    if name and len(cell.text) > _LONG_NAME:
        return rf"\parbox[t]{{3.1cm}}{{\raggedright {text}\strut}}"
    return _latex_stack(text, rf"\scriptsize {for_latex(cell.interval)}") if cell.interval else text


def _latex_stack(above: str, below: str) -> str:
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{above}\\{below}\end{{tabular}}"


def for_latex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    line = unicodedata.normalize("NFC", printable(text))
    # Two of these in a row would become one other sign.
    return "".join(
        _latex_char(char) + ("{}" if char in "-'," and char == after else "") for char, after in pairwise(line + " ")
    )


def _latex_char(char: str) -> str:
    known = _LATEX.get(char)
    if known is not None:
        return known
    if char.isascii() or ("À" <= char <= "ÿ" and char not in "ÐðÞþ×÷"):
        return char
    return f"[U+{ord(char):04X}]"


# Terminal


def rich_table(table: Table) -> "RichTable":
    """A table for ``rich.console.Console.print``: no control codes and no markup from names."""
    from rich.table import Table as RichTable
    from rich.text import Text

    out = RichTable(title=Text(printable(table.caption)), title_justify="left", box=None, padding=(0, 2, 0, 0))
    said = [f"({mark}) {printable(text)}" for mark, text in table.remarks] + list(map(printable, table.notes))
    out.caption, out.caption_justify = Text("\n".join(said), style="dim"), "left"
    for at, head in enumerate(table.header):
        if at < table.names:
            out.add_column(Text(head), overflow="fold")
        else:
            out.add_column(Text(head), justify="right", no_wrap=True)
    for row in table.rows:
        out.add_row(*(_terminal_cell(cell) for cell in row))
    return out


def _terminal_cell(cell: Cell) -> "Text":
    from rich.text import Text

    text = Text(printable(cell.text))
    text.append(f" {cell.interval}" if cell.interval else "", style="dim")
    return text.append(f" ({cell.marks})" if cell.marks else "", style="dim")
