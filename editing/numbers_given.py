"""Numbers that people give for fields of a model; here for those, too, that must not wait for torch."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class NumbersAreNoBooleans(BaseModel):
    """Refuses true and false where a number belongs, which pydantic takes as 1 and 0."""

    @model_validator(mode="before")  # of the model: the field that tells methods apart may have no such validator
    @classmethod
    def _no_boolean(cls, given: Any) -> Any:
        fields = given if isinstance(given, Mapping) else {}
        expected = PydanticCustomError("number_expected", "Input should be a number, not true or false")
        wrong = [
            InitErrorDetails(type=expected, loc=(name,), input=fields[name])
            for name, field in cls.model_fields.items()
            if _holds_boolean(fields.get(name)) and _wants_numbers(field.annotation)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return given


def _holds_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(isinstance(one, bool) for one in value))


def _wants_numbers(annotation: Any) -> bool:
    kinds = _kinds(annotation)
    return bool(kinds & {int, float}) and bool not in kinds


def _kinds(annotation: Any) -> set[Any]:
    """The types of which an annotation is made."""
    return {annotation}.union(*map(_kinds, get_args(annotation))) if get_args(annotation) else {annotation}
