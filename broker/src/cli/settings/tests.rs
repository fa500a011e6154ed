use super::*;

fn assignment(key: &str, value: &str, origin: Origin) -> Assignment {
    Assignment { key: key.to_owned(), value: value.to_owned(), origin }
}

fn flag(key: &str, value: &str) -> Assignment {
    assignment(key, value, Origin::Flag("--set".to_owned()))
}

fn from_text(text: &str) -> Result<Layered, SettingsError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Layered::new(from_file(file.path())?)
}

fn environment(pairs: &[(&str, &str)]) -> Vec<Assignment> {
    from_environment(pairs.iter().map(|(name, value)| (name.into(), value.into()))).unwrap()
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let layered = Layered::new([]).unwrap();
    assert_eq!(layered.settings.listen.to_string(), "127.0.0.1:7171");
    assert_eq!(layered.settings.broker.auto_create_topics, AutoCreateTopics::Refuse);
    assert!(layered.to_toml().lines().all(|line| line.ends_with("# default")), "{}", layered.to_toml());
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = assignment("io_threads", "2", Origin::File("a.toml".into()));
    let variable = environment(&[("AQUEDUCT_IO_THREADS", "3"), ("PATH", "/bin")]);
    let all = [vec![file.clone()], variable.clone(), vec![flag("io_threads", "4")]].concat();
    assert_eq!(Layered::new(all).unwrap().settings.broker.io_threads, 4);
    let without_flag = [vec![file], variable].concat();
    assert_eq!(Layered::new(without_flag).unwrap().settings.broker.io_threads, 3);
}

#[test]
fn the_settings_in_force_are_a_configuration_file_again() {
    let layered =
        Layered::new([flag("segment_bytes", "1MiB"), flag("data", "a \"b\""), flag("auto_create_topics", "true")])
            .unwrap();
    let again = from_text(&layered.to_toml()).unwrap();
    assert_eq!(format!("{:?}", again.settings), format!("{:?}", layered.settings));
    assert!(layered.to_toml().contains("segment_bytes = 1048576"), "{}", layered.to_toml());
    assert!(layered.to_toml().contains("# on the command line as --set"), "{}", layered.to_toml());
}

#[test]
fn unknown_keys_are_refused_by_name_in_every_layer() {
    let error = from_text("segment_byte = 1").unwrap_err().to_string();
    assert!(error.starts_with("unknown setting \"segment_byte\" in "), "{error}");
    assert!(error.contains("did you mean \"segment_bytes\"?"), "{error}");
    let error = from_text("[storage]\nx = 1").unwrap_err().to_string();
    assert!(error.starts_with("unknown setting \"storage\""), "{error}");
    let error = Layered::new(environment(&[("AQUEDUCT_LISTN", "x")])).unwrap_err().to_string();
    assert!(error.contains("\"listn\" in the environment as AQUEDUCT_LISTN; did you mean \"listen\"?"), "{error}");
}

#[test]
fn bad_values_are_named_with_their_key_origin_and_bounds() {
    for (key, value, expected) in [
        ("listen", "nonsense", "expected an address and a port"),
        ("budget_bytes", "many", "expected a number of bytes"),
        ("budget_bytes", "1KiB", "must be between"),
        ("io_threads", "0", "must be between 1 and 256, not 0"),
        ("io_threads", "-1", "expected a whole number"),
        ("runtime_threads", "0", "expected auto, or a number from 1 to 256"),
        ("retention_interval", "5", "has no unit"),
        ("retention_interval", "1ms", "must be at least 100 ms"),
        ("connections_max", "0", "must be between 1 and 1000000, not 0"),
        ("streams_max", "unlimited", "expected a whole number"),
        ("header_list_bytes_max", "1GiB", "must be between 4096 and 1048576"),
        ("keepalive_timeout", "1ms", "must be at least 100 ms"),
        ("preface_timeout", "0s", "must be at least 100 ms"),
        ("auto_create_topics", "yes", "expected true or false"),
        ("log_level", "loud", "expected one of error, warn, info, debug, trace"),
        ("data", "", "expected a path"),
    ] {
        let error = Layered::new([flag(key, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} = {value:?} on the command line as --set: ")), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_are_not_settings_say_where_they_are_wrong() {
    let error = from_text("listen = ").unwrap_err().to_string();
    assert!(error.contains("configuration file") && error.contains("line 1"), "{error}");
    let error = from_text("io_threads = 1.5").unwrap_err().to_string();
    assert!(error.contains("io_threads = \"1.5\""), "{error}");
    let error = from_file(Path::new("/nowhere/aqueduct.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/aqueduct.toml: No such file"), "{error}");
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = [("AQUEDUCT_SERVER", "x"), ("AQUEDUCT_PORT", "tcp://10.0.0.1:7171"), ("AQUEDUCT_SERVICE_HOST", "x")];
    assert_eq!(environment(&others), []);
}
