from matplotlib.text import Text

from harness.results.stats import Interval
from reports import _style


def test_every_method_keeps_its_colour_whoever_stands_beside_it() -> None:
    alone, crowd = _style.colours(["mine"]), _style.colours(["upernet", "decoder_a", "decoder_b", "decoder_ab", "mine"])
    assert alone["mine"] == crowd["mine"]
    assert len(set(crowd.values())) == 5
    assert crowd["decoder_a"] == _style.colours(["Decoder A"])["Decoder A"]  # by cell and as a table names it


def test_methods_beyond_the_spare_colours_still_have_one() -> None:
    names = [f"m{index}" for index in range(20)]
    assert set(_style.colours(names)) == set(names)


def test_a_dollar_sign_is_text() -> None:
    with _style.house():
        figure, axis = _style.canvas(2, 1)
        axis.set_title("$1 and $2^")
        _style.whiskers(axis, 0, 1.0, Interval(0.5, 1.5), "#000000")
        _style.whiskers(axis, 1, 1.0, Interval(), "#000000")
        _style.zero(axis)
        figure.canvas.draw()  # "$1 and $2^" as mathematics would raise
        (title,) = [text for text in figure.findobj(Text) if text.get_text() == "$1 and $2^"]
        assert not title.get_parse_math()
        assert title.get_window_extent().width > 0
