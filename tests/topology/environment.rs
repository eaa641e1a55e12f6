//! Which environment runs when nobody, or somebody, has chosen.

use streamll::topology::{choose_environment, environments};

use super::folder;

#[test]
fn the_flag_wins_then_the_variable_then_development_on_a_tty() {
    let dir = folder(&[("development", "")]);
    let choose = |flag, variable, tty| choose_environment(flag, variable, tty, dir.path()).expect("a choice");
    assert_eq!(choose(Some("staging"), Some("production"), true), "staging");
    assert_eq!(choose(None, Some("production"), true), "production");
    assert_eq!(choose(None, Some(""), true), "development");
    assert_eq!(choose(None, None, true), "development");
}

#[test]
fn without_a_tty_and_a_choice_it_is_refused_with_what_there_is() {
    let dir = folder(&[("base", ""), ("production", ""), ("development", ""), ("not-a-name", "")]);
    let error = choose_environment(None, None, false, dir.path()).expect_err("no choice").to_string();
    assert!(error.contains("no environment is chosen"), "{error}");
    assert!(error.contains("--env") && error.contains("STREAMLL_ENV"), "{error}");
    assert!(error.contains("`development` and `production`"), "{error}");
    assert_eq!(environments(dir.path()), ["development", "production"]);
}

#[test]
fn an_environment_without_a_file_is_refused_with_what_there_is() {
    let dir = folder(&[("production", ""), ("staging", "")]);
    for (name, says) in
        [("prodution", "did you mean `production`?"), ("test", "there are `production` and `staging`")]
    {
        let error = super::load(dir.path(), name, &[]).expect_err("no file").to_string();
        assert!(error.contains(&format!("there is no topology `{name}`")) && error.contains(says), "{error}");
    }
    for name in ["../production", "production.yaml", "", "Production"] {
        let error = super::load(dir.path(), name, &[]).expect_err("no name").to_string();
        assert!(error.contains("is not the name of a topology"), "{error}");
    }
}
