use streamll::instrument;

/// # Safety
/// None is needed.
#[instrument]
unsafe fn of_unsafe(x: *const u8) -> u8 {
    unsafe { *x }
}

fn main() {
    let x = 7;
    assert_eq!(unsafe { of_unsafe(&x) }, 7);
}
