"""pydicom without what decodes pixels, for processes that read headers and pass bytes on.

When pydicom is imported it imports every decoder that is installed, NumPy and Pillow, and a client for its test files:
40 MB and half of its time, and megabytes of C and C++ in the process that all the network talks to. It takes each of
them for optional and offers no other way to leave them out than their absence (ADR 21).
"""

import sys

OPTIONAL = ("PIL", "gdcm", "jpeg_ls", "libjpeg", "numpy", "openjpeg", "pylibjpeg", "requests", "rle", "tqdm")
"""What pydicom asks for when it is imported."""


def import_pydicom() -> None:
    """Import it as if they were not installed; whoever needs one of them for itself can import it afterwards.

    Does nothing in a process that has imported it already: a test, or one that decodes.
    """
    if "pydicom" in sys.modules:
        return
    absent = [name for name in OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: not to be imported
    try:
        import pydicom  # noqa: F401, PLC0415 - that is what this is about
    finally:
        for name in absent:
            del sys.modules[name]
