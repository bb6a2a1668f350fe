"""Elementary functions of one number, float32 or float64, written so that loops over them become vector code.

No branches, no tables, no calls: what a range cannot do is computed beside the rest and chosen. A NaN stays one.
Largest errors: 2 units in the last place (ulp) in float32, 4 for erf and GELU, and 4 in float64. The figures are in
`tests/test_elementwise.py`.

Reduction of the exponential and of the logarithm: Cody and Waite, Software Manual for the Elementary Functions, 1980;
form of the logarithm, with its correction for log1p: fdlibm. Polynomials: `scripts/fit_polynomials.py`.
"""

from __future__ import annotations

from fastsgd.kernels.jit import exact, inlined
from fastsgd.kernels.scalar import by_type, fma, like, make_polynomial, power_of_two, shift, split

_LOG2_E = 1.4426950408889634
# log(2) in two parts, for float32 and float64; the first has so few bits that whole multiples of it are exact.
_LN2_HIGH = (0.693145751953125, 0.693147180369123816490)
_LN2_LOW = (1.42860677e-06, 1.90821492927058770002e-10)
_ROOT_TAU = 0.3989422804014327  # 1 / sqrt(2 pi)
_ROOT_2 = 1.4142135623730951
_NEAR = 0.7  # up to here the normal distribution is taken from its middle, beyond from its end

# Each of these: for float32 and for float64, lowest power first.
_exponential = make_polynomial(  # (exp(r) - 1 - r) / r^2
    (0.5, 0.16666667, 0.041666456, 0.008333362, 0.0013934497, 0.00019858131),
    (
        0.5000000000000001, 0.1666666666666664, 0.04166666666662084, 0.008333333333358074, 0.001388888891885753,
        0.00019841269781222464, 2.4801518748041934e-05, 2.7557356964249505e-06, 2.7621295147799485e-07,
        2.5068488734137617e-08,
    ),
)  # fmt: skip
_logarithm = make_polynomial(  # (log((1 + s) / (1 - s)) - 2 s) / s^3, in s^2
    (0.6666667, 0.40000126, 0.28550375, 0.23342481),
    (
        0.666666666666667, 0.3999999999989287, 0.2857142862894983, 0.22222210654287555, 0.18182923809017712,
        0.15330578540157802, 0.14630466339517417,
    ),
)  # fmt: skip
_tangent = make_polynomial(  # (tanh(x) - x) / x^3, in x^2
    (-0.3333333, 0.13333242, -0.053946715, 0.021680059, -0.008089363, 0.0020390372),
    (
        -0.33333333333333326, 0.1333333333332985, -0.053968253964920804, 0.021869488410874414, -0.00886323308873859,
        0.0035920998467823813, -0.0014556267696549433, 0.0005890118380910123, -0.00023576765089328025,
        8.938295473867057e-05, -2.804154703406659e-05, 5.129013960994902e-06,
    ),
)  # fmt: skip
_normal_near = make_polynomial(  # (Phi(x) - 1/2) / x, in x^2; Phi is the normal distribution function
    (0.3989423, -0.0664903, 0.009972425, -0.0011815407, 0.00010320179),
    (
        0.39894228040143265, -0.06649038006690437, 0.009973557009984037, -0.0011873282145167074,
        0.00011543467861549003, -9.444608948898452e-06, 6.658228708894999e-07, -4.096106758685377e-08,
        2.0108499098716755e-09,
    ),
)  # fmt: skip
# a (1 - Phi(a)) exp(a^2 / 2), in (a - 4) / (a + 4); after Shepherd and Laframboise, Math. of Computation 36, 1981
_normal_far = make_polynomial(
    (
        0.37764257, 0.07369429, -0.11037952, 0.100306064, -0.06306516, 0.026445862, -0.005487497, -0.0009935055,
        0.00079784764, 4.7075733e-05,
    ),
    (
        0.37764256520787576, 0.07369424422192936, -0.11037962061484143, 0.10030777139132244, -0.0630626415341926,
        0.026428192960441015, -0.005509940671132206, -0.0009244369255755251, 0.0008820814344283658,
        -4.8875599135034745e-05, -0.00011650193568104033, 1.6619934955972148e-05, 1.79320595948416e-05,
        -2.6083113801405756e-06, -3.2783103089163665e-06, 2.1203181150555022e-07, 6.513179376633077e-07,
        3.342938421932918e-08, -1.2306293835542964e-07, -1.3059306929652425e-08, 1.6434388768285827e-08,
    ),
)  # fmt: skip


@inlined
def _reduced(x):
    """(n, r, rest) with x = n log(2) + r, |r| at most log(2) / 2, and exp(r) = 1 + r + rest."""
    n = fma(x, like(x, _LOG2_E), shift(x)) - shift(x)
    high = fma(n, -by_type(x, _LN2_HIGH[0], _LN2_HIGH[1]), x)
    low = n * by_type(x, _LN2_LOW[0], _LN2_LOW[1])
    r = high - low
    return n, r, fma(r * r, _exponential(r), (high - r) - low)


@exact
def exp(x):
    """e^x"""
    one = like(x, 1.0)
    low, high = by_type(x, -105.0, -746.0), by_type(x, 90.0, 711.0)
    x = low if x < low else x
    x = high if x > high else x
    n, r, rest = _reduced(x)
    total = one + r
    total += (r - (total - one)) + rest
    # The power in two factors, since 2^n may be no normal number where the result is one, or is subnormal.
    half = fma(n, like(x, 0.5), shift(x))
    other = n - (half - shift(x)) + shift(x)
    return total * power_of_two(half) * power_of_two(other)


@exact
def expm1(x):
    """e^x - 1 for x <= 0, which is all that activations ask for."""
    low = by_type(x, -30.0, -60.0)
    n, r, rest = _reduced(low if x < low else x)
    power = power_of_two(n + shift(x))
    return fma(power, r + rest, power - like(x, 1.0))


@inlined
def _log_of_sum(u, c):
    """log(u + c) for a positive normal u and a c far smaller."""
    m, e = split(u)
    f = m - like(u, 1.0)
    s = f / (like(u, 2.0) + f)
    z = s * s
    square = like(u, 0.5) * f * f
    low = fma(e, by_type(u, _LN2_LOW[0], _LN2_LOW[1]), c / u)
    inner = fma(s, fma(z, _logarithm(z), square), low) - square
    return fma(e, by_type(u, _LN2_HIGH[0], _LN2_HIGH[1]), inner + f)


@inlined
def _at_ends(u, value):
    """`value`, a logarithm, where u is positive and finite; there as it is defined."""
    infinity = like(u, float("inf"))
    value = value if u < infinity else u
    value = value if u > like(u, 0.0) else -infinity
    return value if u >= like(u, 0.0) else like(u, float("nan"))


@exact
def log(x):
    """Natural logarithm."""
    # A subnormal is first made a normal number.
    small = x < by_type(x, 2.0**-126, 2.0**-1022)
    normal = x * like(x, 2.0**54) if small else x
    value = _log_of_sum(normal, like(x, 0.0))
    lifted = value - like(x, 54 * 0.6931471805599453)
    return _at_ends(x, lifted if small else value)


@exact
def log1p(x):
    """log(1 + x)"""
    one = like(x, 1.0)
    u = one + x
    lost = x - (u - one) if x < one else one - (u - x)  # what rounding took from u
    return _at_ends(u, _log_of_sum(u, lost if x < like(x, 2.0**60) else like(x, 0.0)))


@exact
def tanh(x):
    """Hyperbolic tangent."""
    one, square = like(x, 1.0), x * x
    e = exp(like(x, -2.0) * abs(x))
    far = one - (e + e) / (one + e)
    far = -far if x < like(x, 0.0) else far
    near = fma(x * square, _tangent(square), x)
    return near if abs(x) < like(x, 0.7) else far


@inlined
def logistic(x, e):
    """sigmoid(x) from e = exp(-|x|), to the accuracy of e."""
    one, right = like(x, 1.0), x >= like(x, 0.0)
    above, below = one if right else e, one + e
    quotient = above / below
    # What rounding took from the division and from 1 + e, times 1 / (1 + e).
    left = fma(-quotient, below, above) - quotient * (e - (below - one))
    return fma(left, quotient if right else one - quotient, quotient)


@exact
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return logistic(x, exp(-abs(x)))


@exact
def softplus(x):
    """log(1 + exp(x))"""
    zero = like(x, 0.0)
    return (x if x > zero else zero) + log1p(exp(-abs(x)))


@inlined
def _normal_tail(x):
    """(a, e, h) with a = |x|, e = exp(-a^2 / 2) and 1 - Phi(a) = e h / a, for a from `_NEAR` on."""
    most = by_type(x, 15.0, 40.0)  # exp(-a^2 / 2) is 0 from here on
    a = abs(x)
    a = most if a > most else a
    square = a * a
    e = exp(like(x, -0.5) * square)
    # What rounding took from the square would be up to a hundred ulp in the tail.
    e = fma(like(x, -0.5) * fma(a, a, -square), e, e)
    return a, e, _normal_far((a - like(x, 4.0)) / (a + like(x, 4.0)))


@exact
def erf(x):
    """Error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    y = like(x, _ROOT_2) * x
    a, e, h = _normal_tail(y)
    far = fma(like(x, -2.0) * e, h / a, like(x, 1.0))
    far = -far if x < like(x, 0.0) else far
    near = like(x, 2.0) * y * _normal_near(y * y)
    return near if a < like(x, _NEAR) else far


@inlined
def _gelu(x, a, e, h):
    zero = like(x, 0.0)
    near = x * fma(x, _normal_near(x * x), like(x, 0.5))
    return near if a < like(x, _NEAR) else fma(-e, h, x if x > zero else zero)


@exact
def gelu(x):
    """x Phi(x), the Gaussian error linear unit: Hendrycks and Gimpel 2016, in its exact form."""
    a, e, h = _normal_tail(x)
    return _gelu(x, a, e, h)


@exact
def gelu_and_slope(x):
    """(gelu(x), its derivative Phi(x) + x phi(x)).

    The derivative is 0 at x = -0.7518, so its error, at most 6 ulp, is in units of the last place of the larger of its
    terms; it is up to 14 ulp where exp(-x^2 / 2) is subnormal, beyond x = -13 in float32.
    """
    zero, one = like(x, 0.0), like(x, 1.0)
    a, e, h = _normal_tail(x)
    density = like(x, _ROOT_TAU) * e
    near = fma(x, _normal_near(x * x) + density, like(x, 0.5))
    # For a = |x|, the slope at -a; the slopes at a and -a sum to 1.
    below = fma(e, h / a, -a * density)
    far = one - below if x > zero else below
    return _gelu(x, a, e, h), (near if a < like(x, _NEAR) else far)


@exact
def silu_and_slope(x):
    """(x sigmoid(x), its derivative): the sigmoid linear unit, Elfwing, Uchibe and Doya 2018."""
    far = by_type(x, 110.0, 750.0)  # the sigmoid is 0 or 1 from here on, and 0 times infinity would be NaN
    share = logistic(x, exp(-abs(x)))
    bounded = -far if x < -far else x
    value = bounded * share
    bounded = far if bounded > far else bounded
    return value, fma(bounded * share, like(x, 1.0) - share, share)


@exact
def softplus_and_slope(x):
    """(softplus(x), its derivative sigmoid(x))"""
    zero, e = like(x, 0.0), exp(-abs(x))
    return (x if x > zero else zero) + log1p(e), logistic(x, e)
