import errno
import io
import json

from tests.serve.servers import by_hand, config, even, in_memory


class Disk(io.StringIO):
    full = False

    def flush(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_and_its_end_are_each_logged_once(caplog):
    settings, disk = config(), Disk()
    with in_memory(settings, registry=by_hand(even, settings), log=disk) as client:
        for disk.full in (False, True, True, True, False, False, True):
            assert client.get("/models").status_code == 200
    cannot = "the access log cannot be written: [Errno 28] No space left on device"
    again = "the access log can be written again"
    assert [record.message for record in caplog.records if "access log" in record.message] == [cannot, again, cannot]


def test_an_answer_to_head_has_sent_no_bytes():
    settings, log = config(), io.StringIO()
    with in_memory(settings, registry=by_hand(even, settings), log=log) as client:
        plain = {"accept-encoding": "identity"}
        size = len(client.get("/", headers=plain).content)
        client.head("/", headers=plain)
    assert [json.loads(line)["bytes_sent"] for line in log.getvalue().splitlines()] == [size, 0]
