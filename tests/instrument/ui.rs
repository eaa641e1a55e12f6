//! Wrong use is told well: each file in `tests/ui` has its message beside it.

#[test]
fn wrong_use_is_told_where_it_is_and_with_what_would_mend_it() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.pass("tests/ui/pass/*.rs");
}
