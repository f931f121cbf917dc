"""A process that writes audit messages: python audit_writer.py FOLDER NAME COUNT [KEY]; COUNT may be "forever"."""

import itertools
import sys
from pathlib import Path

from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_trail import Trail


def main(folder: str, name: str, count: str, key: str = "") -> None:
    trail = Trail(Path(folder), key=key.encode() or None, longest=20_000)
    audit = Audit(name, "EXPLAIN", trail.append)
    for number in itertools.count() if count == "forever" else range(int(count)):
        audit.login(f"{name}-{number}", "127.0.0.1")


if __name__ == "__main__":
    main(*sys.argv[1:])
