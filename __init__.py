"""traitscope: directions in a language model's residual stream that carry a behaviour, found, proved and
watched.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location

if (
    __name__ == "checkout"
):  # run by a command of this folder, which then is the package, whatever the folder is called
    _spec = spec_from_file_location("traitscope", __file__)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["traitscope"] = _package = module_from_spec(_spec)
    _spec.loader.exec_module(_package)
else:
    from traitscope import utils  # noqa: F401  # it sets the threads that torch starts with, before anything imports torch
