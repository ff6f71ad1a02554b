import pytest

from harness.tracking.limits import batches, clip, key_of, strings, word


@pytest.mark.parametrize(
    ("key", "made"),
    [
        ("train/loss", "train/loss"),
        ("iou[wall]@val (%)", "iou_wall__val ___"),
        ("größe", "gr__e"),
        ("/a//b/", "a/b"),
        ("../x/./y", "x/y"),
        ("", "_"),
        ("k" * 300, "k" * 250),
    ],
)
def test_keys_are_ones_that_mlflow_takes(key: str, made: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert key_of(key) == made
    _validate_metric_name(made)


def test_none_is_left_out_and_the_rest_are_strings() -> None:
    assert strings({"a": 1, "b": None, "c": True, "d": "xyz"}, 2) == {"a": "1", "c": "T…", "d": "x…"}


def test_clip_keeps_whole_lines_where_there_are_some() -> None:
    assert clip("short", 10) == "short"
    assert clip("ab\ncd\nef\ngh", 9) == "ab\ncd\n…"
    assert clip("a\n" + "b" * 20, 10) == "a\nbbbbbbb…"
    assert all(len(clip("x" * 50 + "\n" * 5 + "y" * 50, limit)) <= limit for limit in range(4, 110))


def test_batches_hold_everything_once() -> None:
    assert list(batches(list(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


def test_words_are_ids() -> None:
    assert word("a1-b2.c_3") == "a1-b2.c_3"
    with pytest.raises(ValueError, match="is not an id"):
        word("a'b")
