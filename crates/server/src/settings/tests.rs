//! Settings: each layer, each complaint with its place, and the sample against the code.

use std::ffi::OsString;

use super::{layers::Layers, *};

/// The founding document's file, as it is printed there.
const FOUNDING: &str = r#"[server]
host = "0.0.0.0"
port = 8080
jwt_secret = "your-secret-key"

[message]
large_message_threshold_bytes = 102400  # 100 KB

[storage]
base_storage_path = "/var/lib/kalamdb"

[rocksdb]
write_buffer_size_mb = 64
max_background_jobs = 4

[consolidation]
interval_seconds = 300
messages_threshold = 10000

[query]
timeout_seconds = 30
max_rows = 10000
enable_cache = true

[conversations]
default_type = "ai"
max_group_participants = 100

[deletion]
soft_delete_enabled = true
soft_delete_retention_days = 30
compaction_interval_hours = 24
"#;

fn file(text: &str) -> Layers {
    Layers { file: Some(("config.toml".to_owned(), text.to_owned())), environment: Vec::new(), flags: Vec::new() }
}

fn environment(variables: &[(&str, &str)]) -> Layers {
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Layers { file: None, environment, flags: Vec::new() }
}

fn complaint(layers: Layers) -> String {
    layers.resolve().unwrap_err().to_string()
}

fn origin(loaded: &Loaded, name: &str) -> Origin {
    loaded.values.0.iter().find(|effective| effective.key.full_name() == name).unwrap().origin.clone()
}

/// Of one user's statements two run for each thread, whatever else is allowed.
#[test]
fn one_users_statements_are_bounded_by_the_threads() {
    let places = |of_user: &str, in_all: &str, threads: &str| {
        let text =
            format!("[query]\nmax_concurrent_per_user = {of_user}\nmax_concurrent = {in_all}\nthreads = {threads}\n");
        let query = file(&text).resolve().unwrap().settings.engine().query;
        (query.max_concurrent_per_user, query.max_concurrent, query.threads)
    };
    assert_eq!(places("1000", "1000", "3"), (6, 1000, 3), "as many as the threads are good for");
    assert_eq!(places("5", "1000", "3"), (5, 1000, 3), "as many as the setting says");
    assert_eq!(places("1000", "4", "3"), (4, 4, 3), "as many as there are in all");
    assert_eq!(places("1", "1", "1"), (1, 1, 1));
}

#[test]
fn without_anything_the_defaults_hold() {
    let settings = environment(&[]).resolve().unwrap().settings;
    assert_eq!((settings.server.host.as_str(), settings.server.port), ("127.0.0.1", 8080));
    assert_eq!(settings.storage.base_storage_path, PathBuf::from("./data"));
    assert_eq!(settings.rocksdb.durability, kalamdb_store::Durability::Sync);
    assert_eq!(settings.server.jwt_secret, None);
    assert_eq!(settings.server.metrics, MetricsAccess::Open);
    assert!(settings.engine().query.threads >= 1);
    // What `server.max_body_bytes` promises of itself.
    assert!(settings.server.max_body_bytes >= 3 * settings.message.max_size_bytes);
}

#[test]
fn the_founding_document_s_file_is_read_whole() {
    let loaded = file(FOUNDING).resolve().unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.server.host, "0.0.0.0");
    assert_eq!(settings.server.jwt_secret.as_ref().map(Hidden::reveal), Some("your-secret-key"));
    assert_eq!(settings.store().base_path, PathBuf::from("/var/lib/kalamdb"));
    assert_eq!(settings.store().rules.large_message_threshold_bytes, 102_400);
    assert_eq!(settings.store().rules.crowded_at, 10_000);
    assert_eq!(settings.store().rules.trash_retention, Some(30 * 86_400_000_000));
    assert_eq!(settings.engine().compaction_interval, Duration::from_hours(24));
    assert_eq!(origin(&loaded, "deletion.compaction_interval_hours").to_string(), "config.toml, line 32");
    assert_eq!(origin(&loaded, "query.cache_size_mb"), Origin::Default);
}

#[test]
fn times_and_sizes_reach_the_store_in_its_units() {
    let text = "[deletion]\nsoft_delete_enabled = false\n[media]\nunreferenced_ttl_hours = 2\nmax_video_size_bytes = 7\n\
                [audit]\nretention_days = 3\n[message]\nmax_size_bytes = 5000\n";
    let settings = file(text).resolve().unwrap().settings;
    let rules = settings.store().rules;
    assert_eq!((rules.trash_retention, rules.upload_ttl), (None, 2 * 3_600_000_000));
    assert_eq!((rules.audit_retention, rules.max_message_bytes), (3 * 86_400_000_000, 5_000));
    assert_eq!((settings.media().video, settings.media().largest()), (7, 104_857_600));
}

#[test]
fn a_complaint_names_the_file_the_line_the_setting_and_what_is_allowed() {
    let cases = [
        (
            "[server]\nhost = \"::1\"\nport = 70000\n",
            "config.toml, line 3: `server.port` must be a whole number from 0 to 65535; it is 70000.",
        ),
        (
            "[server]\nport = \"8080\"\n",
            "config.toml, line 2: `server.port` must be a whole number from 0 to 65535; it is \"8080\".",
        ),
        (
            "[server]\n\nprot = 1\n",
            "config.toml, line 3: there is no setting `server.prot`; did you mean `server.port`?",
        ),
        (
            "[server]\nmax_rows = 1\n",
            "config.toml, line 2: there is no setting `server.max_rows`; did you mean `query.max_rows`?",
        ),
        (
            "[log]\nsomething_else = 1\n",
            "config.toml, line 2: there is no setting `log.something_else`; this section has `level`, `format`.",
        ),
        (
            "# one\n[rocksdb]\ndurability = \"fast\"\n",
            "config.toml, line 3: `rocksdb.durability` must be \"sync\" or \"os\"; it is \"fast\".",
        ),
        ("[query]\nenable_cache = 1", "config.toml, line 2: `query.enable_cache` must be true or false; it is 1."),
        (
            "[query]\nmax_rows = 99999999999999999999999",
            "config.toml, line 2: `query.max_rows` must be a whole number from 1 to 10000000.",
        ),
        ("server.port = 1.5", "config.toml, line 1: `server.port` must be a whole number from 0 to 65535; it is 1.5."),
        (
            "[storage]\nbase_storage_path = \"s3://bucket/prefix\"",
            "config.toml, line 2: `storage.base_storage_path` must be the path of a folder (`s3://` comes with a \
             later version); it is \"s3://bucket/prefix\".",
        ),
        (
            "[server]\ncors_origins = [\"https://a.example\", \"https://b.example/\"]",
            "config.toml, line 2: `server.cors_origins` must be a list, each item \"*\", or scheme, host and port \
             without a path, like \"https://app.example.org\"; it is [\"https://a.example\", \"https://b.example/\"].",
        ),
        (
            "[server]\nhost = \"a b\"",
            "config.toml, line 2: `server.host` must be an IP address or a host name; it is \"a b\".",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(complaint(file(text)), expected);
    }
}

#[test]
fn what_is_no_section_and_no_toml_is_told_too() {
    let outside = complaint(file("\nport = 1\n"));
    assert!(outside.starts_with("config.toml, line 2: `port` stands outside a section; the sections are [server], "));
    let unknown = complaint(file("[servers]\nx = 1\n"));
    assert!(
        unknown.contains("line 2: there is no setting `servers.x`; the sections are [server], [log],"),
        "{unknown}"
    );
    let broken = complaint(file("[server]\nport = = 1\n"));
    assert!(broken.starts_with("config.toml, line 2: this is not TOML: "), "{broken}");
    let twice = complaint(file("[server]\nport = 1\nport = 2\n"));
    assert!(twice.starts_with("config.toml, line 3: this is not TOML: "), "{twice}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let layers =
        Layers { flags: vec![("--host", "server.host", "a/b".into())], ..file("[server]\nport = -1\nx = 1\n") };
    let told = complaint(layers);
    let places: Vec<&str> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(places, ["config.toml, line 2", "config.toml, line 3", "--host"]);
}

#[test]
fn a_secret_is_never_shown() {
    let text = "[server]\njwt_secret = \"correct horse battery staple\"\n";
    let loaded = file(text).resolve().unwrap();
    assert!(!format!("{loaded:?}").contains("horse"));
    assert!(!loaded.show().contains("horse"));
    assert!(loaded.show().contains("jwt_secret = \"(hidden)\""));
    assert!(!complaint(file("[server]\njwt_secret = [\"horse\"]")).contains("horse"));
}

#[test]
fn the_environment_comes_after_the_file_and_flags_after_it() {
    let layers = Layers {
        environment: vec![
            ("KALAMDB_SERVER__PORT".into(), "2".into()),
            ("KALAMDB_SERVER__HOST".into(), "::1".into()),
            ("KALAMDB_SERVER__CORS_ORIGINS".into(), "https://a.example, http://localhost:5173".into()),
            ("KALAMDB_QUERY__ENABLE_CACHE".into(), "false".into()),
            ("KALAMDB_TOKEN".into(), "of another purpose".into()),
            ("PATH".into(), "/bin".into()),
        ],
        flags: vec![("--port", "server.port", "3".into())],
        ..file("[server]\nport = 1\nhost = \"0.0.0.0\"\nmetrics = \"off\"\n")
    };
    let loaded = layers.resolve().unwrap();
    let server = &loaded.settings.server;
    assert_eq!((server.port, server.host.as_str(), server.metrics), (3, "::1", MetricsAccess::Off));
    assert_eq!(server.cors_origins, ["https://a.example", "http://localhost:5173"]);
    assert!(!loaded.settings.query.enable_cache);
    assert_eq!(origin(&loaded, "server.port"), Origin::Flag("--port"));
    assert_eq!(origin(&loaded, "server.host"), Origin::Environment("KALAMDB_SERVER__HOST".to_owned()));
    assert_eq!(origin(&loaded, "server.metrics").to_string(), "config.toml, line 4");
}

#[test]
fn a_complaint_about_the_environment_names_the_variable() {
    let expected = "KALAMDB_SERVER__PORT: `server.port` must be a whole number from 0 to 65535; it is \"http\".";
    assert_eq!(complaint(environment(&[("KALAMDB_SERVER__PORT", "http")])), expected);
    let expected = "KALAMDB_SERVER__PROT: there is no setting `server.prot`; did you mean `server.port`?";
    assert_eq!(complaint(environment(&[("KALAMDB_SERVER__PROT", "1")])), expected);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let layers = Layers {
        file: None,
        environment: vec![("KALAMDB_STORAGE__BASE_STORAGE_PATH".into(), OsString::from_vec(vec![b'/', 0xff]))],
        flags: Vec::new(),
    };
    assert!(complaint(layers).ends_with("in UTF-8."));
}

#[test]
fn what_config_prints_is_toml_and_says_where_from() {
    let loaded = file("[server]\nport = 1\n").resolve().unwrap();
    let shown = loaded.show();
    shown.parse::<toml::Table>().unwrap();
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("port").ends_with("# config.toml, line 2"));
    assert!(line("host").ends_with("# default"));
    assert!(line("# jwt_secret is not set").ends_with("# default"));
}

#[test]
fn the_sample_in_the_repository_is_what_the_code_makes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config.toml");
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(kept == sample(), "run: kalamdb config --sample > config.toml");
}

#[test]
fn the_sample_with_its_settings_uncommented_is_valid_and_changes_nothing() {
    let is_setting = |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    let sample = sample();
    let settings: Vec<&str> = sample.lines().filter(is_setting).collect();
    assert_eq!(settings.len(), SECTIONS.iter().map(|section| section.keys.len()).sum::<usize>());
    let active: String = sample
        .lines()
        .map(|line| if is_setting(&line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let loaded = file(&active).resolve().unwrap();
    let defaults = Values::defaults();
    for (set, default) in loaded.values.0.iter().zip(&defaults.0) {
        assert_ne!(set.origin, Origin::Default, "{}", set.key.full_name());
        assert!(default.value.is_none() || set.value == default.value, "{}", set.key.full_name());
    }
    assert!(sample.lines().all(|line| line.len() <= 120));
    // Whoever uncomments it as it is must not get a secret that everybody knows.
    assert!(loaded.settings.server.jwt_secret.unwrap().reveal().len() < 32);
}

/// A bound that the type cannot hold, or a name that the type does not know, would be refused to no purpose.
#[test]
fn every_allowed_value_fits_its_type() {
    let probe = |key: &'static Key, value: Value| {
        let mut values = Values::defaults();
        values.set(key, value, Origin::Default).unwrap();
        Settings::from_values(&values).unwrap();
    };
    for key in SECTIONS.iter().flat_map(|section| section.keys) {
        for value in key.spec.extremes() {
            probe(key, value);
        }
    }
}

#[test]
fn only_origins_are_origins() {
    let accepts = |origin: &str| file(&format!("[server]\ncors_origins = [{origin:?}]")).resolve().is_ok();
    for good in ["*", "https://app.example.org", "http://localhost:5173", "http://[::1]:80", "capacitor://localhost"] {
        assert!(accepts(good), "{good}");
    }
    for bad in ["", "app.example.org", "https://", "https://a/", "https://a?b", "https://u@a", "://a", "https://a b"] {
        assert!(!accepts(bad), "{bad}");
    }
}
