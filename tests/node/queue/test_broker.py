"""A worker of Celery tells whoever keeps it that it is ready, lives and ends."""

import contextlib
import os
import signal
import subprocess
import sys

from keeping import Systemd
from working import RedisServer, short_folder

WORKER = """
import sys
from dicom_node.queue import broker
from dicom_node.settings.sections import Settings
from dicom_node.watch import pulse
pulse.begin()
app = broker.make_celery(Settings.model_validate({"broker": {"url": sys.argv[1]}}))
broker.register(app, broker.EXPLAIN, print)
broker.run_worker(app, broker.EXPLAIN, stall_seconds=0.6)
"""


def test_a_worker_is_ready_once_it_has_the_broker_and_lives_while_it_is_not_stalled():
    with short_folder() as folder, contextlib.closing(Systemd(f"{folder}/s")) as systemd:
        redis = RedisServer(folder)
        environment = {**os.environ, "NOTIFY_SOCKET": systemd.address}
        worker = subprocess.Popen([sys.executable, "-c", WORKER, redis.url], env=environment, stderr=subprocess.DEVNULL)
        try:
            assert systemd.heard(3) is None, "no broker, not ready"
            redis.start()
            assert systemd.heard(60) == "READY=1"
            assert systemd.heard(60) == "WATCHDOG=1"
            worker.send_signal(signal.SIGTERM)
            while (last := systemd.heard(60)) == "WATCHDOG=1":
                pass
            assert last == "STOPPING=1"
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait()
            redis.stop()
