"""What a traced program holds."""

from jax.extend.core import jaxprs_in_params


def equations(jaxpr):
    """All of them, those of inner programs too; a loop's body counts once."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
