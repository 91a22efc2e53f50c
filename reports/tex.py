"""A comparison as a LaTeX table, for a paper. It needs the package booktabs, and compiles with any engine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.compare.compare import Comparison
from bench.compare.rows import Change, Row
from reports import short, words

_HEAD = r"""% \usepackage{booktabs}
\providecommand{\signof}[1]{\ifdefined\Uchar\Uchar"#1 \else[U+#1]\fi}% pdfTeX has no signs beyond Latin-1
"""


class Page:
    """A table for each comparison."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._before = _HEAD

    def add(self, comparison: Comparison) -> str:
        """Its table."""
        text, self._before = self._before, ""
        return text + _table(comparison)

    def end(self) -> str:
        """The head, where there is nothing else."""
        return self._before


def _table(comparison: Comparison) -> str:
    shown, primary = short.metrics(comparison), comparison.primary
    wide = max(1, len(shown))
    compared = [row for row in comparison.rows if shown and (row.ok or row.succeeded)]
    # A run that measured nothing has no figures, and no column for them.
    failed = [(row, end) for row in comparison.rows if (end := short.ending(row) or ("" if shown else row.status))]
    named = (comparison.title, words.place(comparison), words.seeds(comparison), comparison.baseline)
    title, place, seeds, baseline = (_cut(text, 200) for text in named)
    about = (
        f"{title}: {place}, {seeds}. Quality is a figure; the others are ratios to {baseline}, whose figures are in the first "
        f"line. + better, − worse, = same, ? not settled. {words.verdicts(comparison)}"
    )
    return "\n".join(
        [
            "",
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{plain(about)}}}",
            rf"\begin{{tabular}}{{l{'r' * wide}}}",
            r"\toprule",
            _line(["recipe", *(rf"\shortstack[r]{{{_stacked(metric.title)}}}" for metric in shown)]),
            r"\midrule",
            *(_line([_name(row), *map(plain, short.cells(row, shown, primary, _sign_of))]) for row in compared),
            *[r"\midrule"] * bool(compared and failed),
            *(
                _line([_name(row), rf"\multicolumn{{{wide}}}{{p{{0.7\linewidth}}}}{{{plain(end)}}}"])
                for row, end in failed
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _sign_of(change: Change) -> str:
    return {"better": "+", "worse": "−", "same": "=", "not settled": "?"}[change.verdict]


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _stacked(title: str) -> str:
    first, _, rest = title.partition(" ")
    return rf"{plain(first)}\\{plain(rest)}" if rest else plain(first)


def _name(row: Row) -> str:
    return plain(_cut(row.name, 40))


def _cut(text: str, most: int) -> str:
    """`text`, shortened to what TeX has room for: a cell breaks no line, and a caption is measured in one."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def plain(text: str) -> str:
    """Text that stays text, with no command, no ligature and no paragraph in it."""
    return re.sub(r"[^A-Za-z0-9 .,:;()/=+*!?@]", _sign, " ".join(text.split()))


def _sign(found: re.Match[str]) -> str:
    sign = found[0]
    if sign in _SIGNS:
        return _SIGNS[sign]
    return sign if "\xa1" <= sign <= "\xff" and sign != "\xad" else rf"\signof{{{ord(sign):04X}}}"


_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\symbol{34}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "-": "{-}", "[": "{[}", "]": "{]}",
    "×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "µ": r"\textmu{}", "·": r"$\cdot$", "≈": r"$\approx$",
    "≥": r"$\geq$", "≤": r"$\leq$", "⚠": r"$^{!}$",
}  # fmt: skip
