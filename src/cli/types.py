"""Types with limits for the fields of configurations."""

from __future__ import annotations

from pydantic import ByteSize

from src.cli.flags import limited

Count = limited(int, "a whole number, at least 1", ge=1, lt=2**31)
CountOrZero = limited(int, "a whole number, at least 0", ge=0, lt=2**31)
Bytes = limited(ByteSize, "a number of bytes, at least 1, such as 500000 or 0.5MB", ge=1, lt=2**31)
Amount = limited(float, "a number, at least 0", ge=0, allow_inf_nan=False)
Norm = limited(float, "a number above 0", gt=0, allow_inf_nan=False)
Fraction = limited(float, "a number from 0 to below 1", ge=0, lt=1)
OpenFraction = limited(float, "a number above 0 and below 1", gt=0, lt=1)
Ratio = limited(float, "a number above 0, at most 8", gt=0, le=8)
# Upper limits catch typing errors, which would take all memory.
Side = limited(int, "a whole number from 1 to 8192", ge=1, le=8192)
Padding = limited(int, "a whole number from 0 to 512", ge=0, le=512)
Filters = limited(int, "a whole number from 0 to 65536", ge=0, le=65536)
Classes = limited(int, "a whole number from 1 to 1000000", ge=1, le=1_000_000)
Epochs = limited(int, "a whole number from 1 to 100000", ge=1, le=100_000)
Columns = limited(
    list[str], "two names: the column of the file and the column of the class", min_length=2, max_length=2
)
