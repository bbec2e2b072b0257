"""Tables as Markdown and LaTeX."""

import re

from repro.report import render
from tests.support.results import files_of, result


def test_markdown_lifts_what_is_common_and_stays_narrow():
    shown = render.columns("id", *(f"s{i}*" for i in range(20)), "score")
    rows = tuple(
        render.Row(
            str(n),
            {"id": str(n), "score": "1", "s0": "same"} | {f"s{i}": f"{n}{i}" for i in range(1, 20)},
            {},
        )
        for n in range(2)
    )
    layout = render.arrange(render.Section("", shown, rows))
    assert layout.common == [("s0", "same")]
    assert len(layout.titles) == len(layout.rows[0]) == render.MAX_COLUMNS
    folded = layout.rows[1][layout.titles.index("setup")]
    kept = [title for title in layout.titles if title.startswith("s") and title[1:].isdigit()]
    assert {part.split()[0] for part in folded.split("; ")} | set(kept) == {f"s{i}" for i in range(1, 20)}


def test_latex_prints_special_characters_as_they_stand():
    label = r"50% & a_b #1 {x} ~ ^ $5 \ <y>"
    runs = [result("r", config={"label": label}), result("s", seed=1, config={"label": label})]
    text = files_of(runs)["segmentation.tex"]
    escaped = r"50\% \& a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \$5 \textbackslash{} "
    escaped += r"\textless{}y\textgreater{}"
    assert escaped in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\end{tabular}")
    outside = re.sub(r"\\begin\{table\}.*?\\end\{table\}", "", text, flags=re.DOTALL)
    assert all(line.startswith("%") for line in outside.splitlines() if line), "captions are comments, line by line"


def test_a_pipe_does_not_break_a_markdown_table():
    line = render.markdown_table(["a", "b"], [["x|y", "1 < 2"]]).splitlines()[-1]
    assert len(re.split(r"(?<!\\)\|", line)) == 4
