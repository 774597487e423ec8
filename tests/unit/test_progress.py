import io
import logging
import sys

from ehr_tl.progress import _logs_above


def test_log_lines_go_where_a_drawn_bar_has_them_and_back_again(monkeypatch):
    terminal, above = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        monkeypatch.setattr(sys, "stderr", above)
        with _logs_above():
            logging.getLogger("ehr_tl").error("while it is drawn")
        logging.getLogger("ehr_tl").error("after it")
    finally:
        logging.getLogger().removeHandler(handler)
    assert above.getvalue() == "while it is drawn\n"
    assert terminal.getvalue() == "after it\n"
