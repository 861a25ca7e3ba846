"""Classifies a picture through the C interface, with nothing beside Python:

    python classify.py libgabion_c.so BUNDLE PICTURE [VIEWS]

prints JSON: the label, its class and every class's probability.
"""

import ctypes
import json
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

ABI = 1


class ClassifyOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("seed", c_uint64), ("views", c_uint32), ("confidence", c_float)]


class Result(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("probabilities", POINTER(c_float)),
        ("capacity", c_size_t),
        ("classes", c_size_t),
        ("milliseconds", c_double),
        ("label", c_uint32),
        ("probability", c_float),
        ("margin", c_float),
        ("agreement", c_float),
        ("views", c_uint32),
        ("reserved", c_uint32),
    ]


def load(path):
    """The library, its functions declared: ctypes would cut pointers to 32 bits."""
    library = ctypes.CDLL(path)
    for name, result, arguments in [
        ("gabion_check_abi", c_int32, [c_uint32]),
        ("gabion_last_error", c_char_p, []),
        ("gabion_open", c_int32, [c_char_p, c_void_p, POINTER(c_void_p)]),
        ("gabion_close", None, [c_void_p]),
        ("gabion_class_count", c_size_t, [c_void_p]),
        ("gabion_class_name", c_char_p, [c_void_p, c_size_t]),
        ("gabion_classify_file", c_int32, [c_void_p, c_char_p, POINTER(ClassifyOptions), POINTER(Result)]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """An opened bundle; `with` closes it."""

    def __init__(self, library, bundle):
        self.library, self.handle = library, c_void_p()
        self.check(library.gabion_check_abi(ABI))
        self.check(library.gabion_open(bundle.encode(), None, byref(self.handle)))
        count = library.gabion_class_count(self.handle)
        self.classes = [library.gabion_class_name(self.handle, label).decode() for label in range(count)]

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.library.gabion_last_error().decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.gabion_close(self.handle)
        self.handle = c_void_p()

    def classify(self, picture, views=1, seed=0, confidence=1.0):
        """The label of a picture file, and the probability of every class."""
        options = ClassifyOptions(ctypes.sizeof(ClassifyOptions), seed, views, confidence)
        probabilities = (c_float * len(self.classes))()
        result = Result(size=ctypes.sizeof(Result), probabilities=probabilities, capacity=len(probabilities))
        self.check(self.library.gabion_classify_file(self.handle, picture.encode(), byref(options), byref(result)))
        return result.label, list(probabilities)


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    path, bundle, picture = sys.argv[1:4]
    views = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    with Session(load(path), bundle) as session:
        label, probabilities = session.classify(picture, views)
        print(json.dumps({"label": label, "class": session.classes[label], "probabilities": probabilities}))


if __name__ == "__main__":
    main()
