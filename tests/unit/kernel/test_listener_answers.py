"""What may be sent to the kernel as an answer: it would take anything, so the shim does not."""

from errno import EINVAL

import pytest

from supervisor.kernel.shim import ffi, lib


@pytest.mark.parametrize(
    ("value", "error", "proceed"),
    [
        (0, 1, 0),  # EPERM with the wrong sign: the caller would see success
        (0, -4096, 0),
        (0, 4095, 0),
        (5, -1, 0),
        (0, -1, 1),
        (1, 0, 1),
    ],
)
def test_an_answer_that_the_kernel_would_misread_is_not_sent(
    value: int, error: int, proceed: int
) -> None:
    watch = ffi.new("struct sd_watch *")
    receiver = lib.sd_receiver_new(-1, -1, -1, watch, ffi.new("struct sd_reads[1]"), 0, 10**8)
    assert receiver != ffi.NULL
    try:
        assert lib.sd_answer(receiver, 1, 0, value, error, proceed) == -EINVAL
        assert lib.sd_answer(receiver, 1, 256, 0, -1, 0) == -EINVAL, "a slot that does not exist"
        assert lib.sd_answer(receiver, 1, -1, 0, -1, 0) == -EINVAL
    finally:
        lib.sd_receiver_free(receiver)


@pytest.mark.parametrize("error", [0, 1, -4096])
def test_a_refusal_is_a_refusal(error: int) -> None:
    watch = ffi.new("struct sd_watch *")
    assert lib.sd_refuse_pending(-1, watch, error) == -EINVAL
    assert lib.sd_refuse_next(-1, watch, error) == -EINVAL
    assert lib.sd_proxy_refuse_pending(-1, watch, error) == -EINVAL
    assert lib.sd_proxy_refuse_next(-1, watch, error) == -EINVAL
