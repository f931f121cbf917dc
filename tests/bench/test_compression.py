"""What is told of compressed pictures; how long they take is measured, not tested."""

from bench import compression


def run(size, encode, decode, off=0):
    return {"bytes": size, "off": off, "encode": {"ms": encode}, "decode": {"ms": decode}}


def test_a_row_has_the_ratio_and_what_a_network_and_the_encoder_take_together():
    kinds = {"none": run(10_000_000, 0, 1), "jpeg-ls": run(2_500_000, 300, 200), "jpeg": run(500_000, 50, 40, 9)}
    film = {"megapixels": 3, "columns": 1700, "rows": 1800, "kinds": kinds}
    lines = compression.markdown({"films": [film], "load": [0.1, 0.2]}).splitlines()
    assert "**3 megapixels, 1700 x 1800**" in lines
    assert "| none | 10.00 | 1.00 | 0 | 1 | 0 | 0.80 s | 8.00 s |" in lines
    assert "| jpeg-ls | 2.50 | 0.25 | 300 | 200 | 0 | 0.50 s | 2.30 s |" in lines
    assert "| jpeg | 0.50 | 0.05 | 50 | 40 | 9 | 0.09 s | 0.45 s |" in lines


def test_every_kind_that_a_destination_may_ask_for_is_measured():
    assert compression.KINDS[0] == "none"
    assert {"rle", "jpeg-ls", "jpeg-2000", "jpeg"} <= set(compression.KINDS)
