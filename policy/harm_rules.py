"""What a program's text may not contain, as data: each rule with what it matches and the reason, for its author.

The rules are an allow-list where the honest use is small (imports, dunder names, what may be called by a computed name)
and a deny-list where it is large (torch). They refuse what no honest program needs, and what would make the program's
text a store of weights. They are no wall: Python is too rich for a list of names to hold, and whoever gets past them
is in the sandbox, where the audit judges what the model predicts.

What is deliberately allowed: `global` and mutable module state, because a list at module level keeps state as well and
no rule would see it, while honest programs cache tables there; that a model remembers between calls is found by the
audit, which compares predictions. Threads of torch, DataLoader and torch.compile: they are work within the budget.
*Pure.*
"""

from collections.abc import Mapping

from msgspec import Struct

DEPTH_MAX = 100  # of the syntax tree; what walks a tree by recursion must not be ended by a stranger's
CONTRACT = {"build": 2, "train": 2}  # function to number of positional parameters
FINDINGS_MAX = 100  # of one program

# Weights in the text. Thresholds lie far from honest programs on one side and from the cheats of
# tests/policy/test_screening.py on the other; docs/lessons.md has the figures of both.
STRING_CHARACTERS_MAX = 1000  # of one literal, docstrings apart: nothing can read a docstring that passes these rules
STRINGS_CHARACTERS_MAX = 6000  # of all of them
ENTROPY_CHARACTERS_MIN = 100  # shorter literals say too little about their distribution
ENTROPY_BITS_MAX = 5.2  # per character, order 0: prose with numbers has up to 4.9, base64 of 100 characters 5.5
RUN_CHARACTERS_MAX = 100  # without a space: hexadecimal has 4 bits a character, less than prose, but no words
INTEGER_DIGITS_MAX = 40  # of one integer literal
TABLE_NUMBERS_MAX = 64  # numbers in one literal table, nested ones counted
NUMBERS_DIGITS_MAX = 3000  # of all number literals, beyond the first two digits of each


class Rule(Struct, frozen=True):
    """One rule of the screen."""

    id: str
    matches: str
    reason: str  # a sentence's second half, after what was found


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RULES: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule("size", "more bytes than a program may have", "a program is small enough to be read"),
        Rule("text", "what is not Python in UTF-8", "two readers must not see two programs"),
        Rule("depth", f"syntax nested more than {DEPTH_MAX} levels deep", "its readers must not run out of stack"),
        Rule(
            "contract",
            "no `build` or `train`, or with other parameters",
            "the trial calls build(vocab_size, seq_len) and train(model, task)",
        ),
        Rule(
            "import",
            "an import outside IMPORTS, or a name that its module's entry does not have",
            "a program needs torch and arithmetic only; files, processes and the network are out of its reach anyway",
        ),
        Rule("star-import", "from … import *", "names must be readable in the text"),
        Rule(
            "torch",
            "a part of torch that reads or writes files, runs other code, or reaches processes or the network",
            "training and attention need none of it",
        ),
        Rule(
            "builtin",
            "a builtin that runs text, reads files, or shows what is in scope",
            "what a program does must stand in its text",
        ),
        Rule(
            "computed-name",
            "getattr, setattr or delattr with a name that is not a plain literal",
            "it hides which attribute is meant; use nn.ModuleList, nn.ParameterList or a dict",
        ),
        Rule(
            "dunder",
            "a dunder attribute or name outside DUNDERS",
            "it leads from any object to the interpreter's insides",
        ),
        Rule(
            "dunder-method",
            "a method that acts on pickling, destruction or class creation",
            "it runs where nobody calls it",
        ),
        Rule(
            "frame",
            "attributes of frames, code objects and generators",
            "they lead to the stub that runs the program",
        ),
        Rule(
            "module-attribute",
            "a system module reached as an attribute of something else",
            "it is the import that is refused, by another way",
        ),
        Rule(
            "module-value",
            "an imported module handed on as a value",
            "what happens to it there cannot be read; name the function that is meant",
        ),
        Rule(
            "patch",
            "assigning to an attribute of a module or of the task, settings of torch.backends apart",
            "it changes the code that measures, not the model",
        ),
        Rule(
            "format",
            "a format string that reads private attributes",
            "it is an attribute access in disguise",
        ),
        Rule(
            "decorator",
            "a decorator that is not a plain name or a call of one",
            "what it does to the function must be readable",
        ),
        Rule(
            "class",
            "a metaclass, other class keywords, computed bases, or type() with three arguments",
            "it runs code while a class is made",
        ),
        Rule(
            "long-string",
            f"a string of more than {STRING_CHARACTERS_MAX} characters, or more than {STRINGS_CHARACTERS_MAX} in all,"
            " docstrings apart",
            "the text of a program is no store of weights",
        ),
        Rule(
            "entropy",
            f"a string with more than {ENTROPY_BITS_MAX} bits per character, or {RUN_CHARACTERS_MAX} without a space",
            "it looks like packed data, and weights are trained, not shipped",
        ),
        Rule(
            "number",
            f"an integer of more than {INTEGER_DIGITS_MAX} digits",
            "it looks like packed data, and weights are trained, not shipped",
        ),
        Rule(
            "table",
            f"more than {TABLE_NUMBERS_MAX} numbers in one literal table, or more than {NUMBERS_DIGITS_MAX} digits in"
            " all",
            "weights are trained, not shipped",
        ),
    )
}
"""By id."""

IMPORTS: Mapping[str, frozenset[str] | None] = {
    **dict.fromkeys(
        (
            "__future__", "abc", "bisect", "cmath", "collections", "collections.abc", "contextlib", "copy",
            "dataclasses", "decimal", "enum", "fractions", "functools", "heapq", "itertools", "math", "numbers",
            "random", "statistics", "string", "time", "typing", "typing_extensions", "warnings",
            "torch", "torch.amp", "torch.autograd", "torch.backends", "torch.compiler", "torch.cuda",
            "torch.distributions", "torch.fft", "torch.func", "torch.linalg", "torch.nn", "torch.optim",
            "torch.sparse", "torch.special", "torch.types", "torch.utils", "torch.utils.checkpoint",
            "torch.utils.data",
        )
    ),
    "gc": frozenset({"collect", "disable", "enable", "freeze", "unfreeze"}),  # its other parts find objects
    "operator": frozenset({"add", "sub", "mul", "truediv", "floordiv", "matmul", "itemgetter", "neg", "lt", "gt"}),
    "types": frozenset({"SimpleNamespace", "MappingProxyType"}),  # not what makes functions of code
}  # fmt: skip
"""Module to the names that it may be used for; None for all that no other rule refuses."""

PACKAGES = ("torch.nn", "torch.optim", "torch.autograd", "torch.backends", "torch.distributions", "torch.cuda")
"""Whose submodules may be imported too."""

TORCH_REFUSED = _words(
    """
    torch.load torch.save torch.hub torch.jit torch.ops torch.classes torch.library torch.package torch.serialization
    torch.distributed torch.multiprocessing torch.export torch.onnx torch.fx torch.from_file torch.storage
    torch.overrides torch.UntypedStorage torch.TypedStorage torch.FloatStorage torch.ByteStorage torch.profiler
    torch.testing torch.monitor torch.futures torch.mtia torch.accelerator.memory torch.utils.cpp_extension
    torch.utils.hooks torch.utils.dlpack torch.utils.model_zoo torch.utils.bundled_inputs torch.utils.mobile_optimizer
    torch.utils.tensorboard torch.utils.collect_env torch.utils.show_pickle torch.utils.file_baton torch.utils.hipify
    torch.utils.backend_registration torch.nn.modules.module.register_module_forward_hook
    torch.nn.modules.module.register_module_forward_pre_hook torch.nn.parallel torch.autograd.profiler
    torch.autograd.graph torch.cuda.memory torch.cuda.cudart torch.cuda.nccl torch.cuda.caching_allocator_alloc
    torch.compiler.save_cache_artifacts torch.compiler.load_cache_artifacts
    """
)
"""Dotted names; what stands below one is refused with it. Private parts of torch are refused but for these:"""

TORCH_PRIVATE_PREFIXES = ("torch._foreach_", "torch._assert")  # fused arithmetic over lists of tensors; checks

BUILTINS_REFUSED = _words(
    """
    eval exec compile open input breakpoint globals locals vars dir help exit quit __import__ __builtins__ __loader__
    __spec__ __file__ __doc__ __build_class__ __cached__ __package__ copyright credits license
    """
)
"""Names that are refused wherever they are read, unless a parameter or local variable of that name hides them."""

COMPUTED = frozenset({"getattr", "setattr", "delattr"})

DUNDERS = _words(
    """
    __init__ __name__ __call__ __len__ __getitem__ __setitem__ __iter__ __next__ __enter__ __exit__ __post_init__
    __new__ __class__ __version__ __add__ __mul__ __matmul__ __all__ __repr__ __eq__ __hash__ __slots__ __main__
    """
)
"""Dunder attributes and names that honest programs use."""

DUNDER_METHODS_REFUSED = _words(
    """
    __del__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __prepare__ __init_subclass__ __torch_function__
    __torch_dispatch__ __class_getitem__ __instancecheck__ __subclasscheck__ __mro_entries__ __set_name__ __deepcopy__
    """
)

FRAME_ATTRIBUTES = _words(
    """
    f_back f_builtins f_code f_globals f_locals f_trace gi_code gi_frame gi_yieldfrom cr_code cr_frame cr_origin
    ag_code ag_frame tb_frame tb_next co_code co_consts co_names func_globals func_code cell_contents
    """
)

SYSTEM_ATTRIBUTES = _words(
    """
    os sys subprocess ctypes builtins importlib pickle marshal inspect linecache socket shutil pathlib tempfile
    multiprocessing threading _os _sys _io _thread _pickle posix from_file share_memory_ tofile attrgetter
    methodcaller load_library load_inline
    """
)
"""Attributes that are refused whatever they are of: ways to the system, or to attributes by computed names."""

PATCHABLE = ("torch.backends",)  # settings, as torch.backends.cuda.matmul.allow_tf32
