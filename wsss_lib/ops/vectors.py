"""Four float32 in one register, for functions that Numba compiles.

LLVM does not turn loops over a few channels into vector instructions by itself. With these operations every processor
computes four channels at once. This module needs Numba, which the extra `fast` installs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

F = TypeVar("F", bound=Callable[..., Any])

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_REGISTER = ir.VectorType(_FLOAT, 4)
_INTS = ir.VectorType(_INT, 4)


class Four(types.Type):
    """Numba's type of four float32."""

    def __init__(self) -> None:
        super().__init__(name="Four")


FOUR = Four()


@register_model(Four)
class _FourModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _REGISTER)


def compiled(function: F) -> F:
    """Compile a function on its first call, and keep the code in a file where a folder for it can be written.

    Numba compiles again when the file of the function changes, but not when this one does: after a change here, remove
    the files ``__pycache__/*.nb*``.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # there is no such folder
        return numba.njit(nogil=True, error_model="numpy")(function)


def _instruction(function: Callable[..., Any]) -> Any:
    return intrinsic(function)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_REGISTER, [ir.Constant(_FLOAT, value)] * 4)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    kind = ir.FunctionType(_REGISTER, [_REGISTER] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v4f32"), arguments)


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), _REGISTER.as_pointer())


@_instruction
def load(typing: Any, array: Any, place: Any) -> Any:  # noqa: ARG001
    """Return the four values of a flat float32 array from ``place`` (int64) on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature, arguments), align=4)

    return FOUR(array, place), emit


@_instruction
def store(typing: Any, array: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """Write four values into a flat float32 array from ``place`` (int64) on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, place, value), emit


@_instruction
def spread(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """Return a float32 four times."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        first = builder.insert_element(ir.Constant(_REGISTER, ir.Undefined), arguments[0], ir.Constant(_INT, 0))
        return builder.shuffle_vector(first, ir.Constant(_REGISTER, ir.Undefined), ir.Constant(_INTS, [0] * 4))

    return FOUR(types.float32), emit


@_instruction
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return ``a b + c``, rounded once where the processor can."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return _call(builder, "fmuladd", *arguments)

    return FOUR(a, b, c), emit


@_instruction
def greater(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """Return the greater values."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return FOUR(a, b), emit


@_instruction
def exponential(typing: Any, x: Any) -> Any:  # noqa: ARG001
    """Return e to the power of values of at most 0; 0 below -87, where float32 loses digits.

    2^n e^r with x = n ln 2 + r; the powers of r are those of Cephes' ``expf``, with a relative error below 2e-7.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        def times_plus(a: Any, b: Any, c: float | Any) -> Any:
            return _call(builder, "fmuladd", a, b, _constant(c) if isinstance(c, float) else c)

        (x,) = arguments
        vanishes = builder.fcmp_ordered("<", x, _constant(-87.0))
        x = builder.select(vanishes, _constant(0.0), x)
        n = _call(builder, "floor", times_plus(x, _constant(1.4426950408889634), 0.5))
        r = times_plus(n, _constant(-0.693359375), x)
        r = times_plus(n, _constant(2.12194440e-4), r)
        y = _constant(1.9875691500e-4)
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            y = times_plus(y, r, factor)
        y = times_plus(y, builder.fmul(r, r), builder.fadd(r, _constant(1.0)))
        exponent = builder.add(builder.fptosi(n, _INTS), ir.Constant(_INTS, [127] * 4))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(_INTS, [23] * 4)), _REGISTER)
        return builder.select(vanishes, _constant(0.0), builder.fmul(y, power))

    return FOUR(x), emit


def _parts(builder: Any, value: Any) -> list[Any]:
    return [builder.extract_element(value, ir.Constant(_INT, i)) for i in range(4)]


@_instruction
def greatest(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """Return the greatest of the four values, float32."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        def of_two(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        a, b, c, d = _parts(builder, arguments[0])
        return of_two(of_two(a, b), of_two(c, d))

    return types.float32(value), emit


@_instruction
def total(typing: Any, value: Any) -> Any:  # noqa: ARG001
    """Return the sum of the four values, float32."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        a, b, c, d = _parts(builder, arguments[0])
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return types.float32(value), emit


def _arithmetic(name: str) -> Any:
    def operation(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            return getattr(builder, name)(*arguments)

        return FOUR(a, b), emit

    return intrinsic(operation)


add, subtract, multiply = (_arithmetic(name) for name in ("fadd", "fsub", "fmul"))
"""Sum, difference and product of four values and four others."""
