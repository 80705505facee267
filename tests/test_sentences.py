import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_probe.sentences import MAX_CHARS, MAX_SPACE, SentenceStream, split

PIECES = st.sampled_from(
    [". ", "? ", "! ", "...", "…", "。", "\n", "\n\n", "```\n", "```python\n", "- ", "1. ", "e.g. ", "Wait, ", "x", " ",
     '"', ",", '", "k": ', "(", ")", "I", "The ", "abc ", "3.14", "\u2028", "\u200b", "\ud800", "😀", "não ", "<think>"]
)  # fmt: skip
REASONING = st.one_of(
    st.text(max_size=400),
    st.lists(PIECES, max_size=120).map("".join),
    st.lists(PIECES, max_size=6).map(lambda parts: "".join(parts) * 90),
)


def texts(text: str) -> list[str]:
    return [sentence.text.strip() for sentence in split(text)]


@settings(max_examples=300, deadline=None)
@given(REASONING)
def test_slices_join_back_and_stay_bounded(text: str) -> None:
    sentences = split(text)
    assert "".join(sentence.text for sentence in sentences) == text
    position = 0
    for sentence in sentences:
        assert (sentence.start, text[sentence.start : sentence.end]) == (position, sentence.text)
        assert 0 < len(sentence.text) <= 2 * MAX_CHARS + MAX_SPACE
        position = sentence.end


@settings(max_examples=200, deadline=None)
@given(REASONING, st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_streaming_in_any_pieces_equals_batch(text: str, sizes: list[int]) -> None:
    stream, out, at, turn = SentenceStream(), [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out += stream.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert out + stream.close() == split(text)


def test_feeding_a_closed_stream_is_refused() -> None:
    stream = SentenceStream()
    stream.feed("done")
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.feed("more")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Kim said v2.0.1 is fine. Wait, no.", ["Dr. Kim said v2.0.1 is fine.", "Wait, no."]),
        ("See https://a.b/x?y=1.2 first. Then go.", ["See https://a.b/x?y=1.2 first.", "Then go."]),
        ("Plan:\n1. Read it\n2. Kill pid 4. Then stop", ["Plan:", "1. Read it", "2. Kill pid 4.", "Then stop"]),
        ("- one\n- two, e.g. this\n- three", ["- one", "- two, e.g. this", "- three"]),
        ("need check policy.Is it allowed? probably ok", ["need check policy.", "Is it allowed?", "probably ok"]),
        ("call np.Array and foo.Bar() now", ["call np.Array and foo.Bar() now"]),
        ("不知道。我先看日志。", ["不知道。", "我先看日志。"]),
        ("hmm... maybe not. ok", ["hmm... maybe not.", "ok"]),
        ('{"thought": "a b", "plan": "c d"}', ['{"thought": "a b",', '"plan": "c d"}']),
    ],
)
def test_what_reasoning_looks_like(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_code_fences_are_kept_in_blocks() -> None:
    text = "Run it:\n```python\nx = 1. \ny = foo('A. B')\n\nz = 3\n```\nDone. Good."
    assert texts(text) == ["Run it:", "```python", "x = 1. \ny = foo('A. B')", "z = 3", "```", "Done.", "Good."]


def test_hard_wrapped_lines_are_one_sentence() -> None:
    first = "The log shows that the nightly job has been started by hand at two in the morning and"
    assert texts(f"{first}\nthat nobody stopped it.") == [f"{first}\nthat nobody stopped it."]


def test_no_punctuation_at_all_is_cut_at_spaces() -> None:
    text = "so i look at the table and then " * 60
    sentences = split(text)
    assert len(sentences) > 2
    assert all(len(sentence.text) <= MAX_CHARS + MAX_SPACE for sentence in sentences)
    assert all(not sentence.text[0].isspace() for sentence in sentences)
