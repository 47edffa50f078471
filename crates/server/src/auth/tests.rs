//! Tokens that are let in, tokens that are not and why, and the secret's life.

use serde_json::{Value, json};

use super::*;
use crate::settings::{self, Settings, Source};

const NOW: u64 = 1_760_000_000;

/// Settings with that data folder and what else the file's `[server]` section says.
fn settings(data: &std::path::Path, server: &str) -> Settings {
    let config = data.join("test.toml");
    std::fs::write(&config, format!("[server]\n{server}\n")).unwrap();
    let source = Source { config: Some(config), data: Some(data.to_owned()), ..Source::default() };
    settings::load(&source).unwrap().settings
}

fn secret() -> Secret {
    let folder = tempfile::tempdir().unwrap();
    Secret::find(&settings(folder.path(), "jwt_secret = \"0123456789abcdef0123456789abcdef\"")).unwrap().unwrap()
}

fn sign(claims: &Value, algorithm: Algorithm) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret().as_bytes())).unwrap()
}

fn verify(token: &str) -> Result<Caller, Denied> {
    Verifier::new(&secret(), JwtAlgorithm::Hs256).verify(token, NOW)
}

fn verify_claims(claims: &Value) -> Result<Caller, Denied> {
    verify(&sign(claims, Algorithm::HS256))
}

fn caller(user: &str, admin: bool) -> Caller {
    Caller { user: UserId::new(user).unwrap(), admin }
}

#[test]
fn the_user_is_user_id_else_sub_and_an_admin_only_if_the_claim_says_so() {
    let exp = NOW + 1;
    for (claims, expected) in [
        (json!({"exp": exp, "sub": "a"}), caller("a", false)),
        (json!({"exp": exp, "sub": "a", "userId": "b"}), caller("b", false)),
        (json!({"exp": exp, "sub": "auth0|1", "userId": null}), caller("auth0|1", false)),
        (json!({"exp": exp, "sub": "a", "role": "admin"}), caller("a", true)),
        (json!({"exp": exp, "sub": "a", "role": "Admin"}), caller("a", false)),
        (json!({"exp": exp, "sub": "a", "role": ["admin"]}), caller("a", false)),
        (json!({"exp": f64::from(u32::try_from(exp).unwrap()) + 0.5, "sub": "a"}), caller("a", false)),
        (json!({"exp": exp, "sub": "a", "aud": "elsewhere", "iss": "x", "nbf": NOW + 30}), caller("a", false)),
    ] {
        assert_eq!(verify_claims(&claims), Ok(expected), "{claims}");
    }
}

#[test]
fn a_token_says_when_it_ends() {
    for (exp, expected) in [(json!(NOW + 60), NOW + 60), (json!(1e300), u64::MAX)] {
        let token = sign(&json!({"exp": exp, "sub": "a"}), Algorithm::HS256);
        let verified = Verifier::new(&secret(), JwtAlgorithm::Hs256).verify_until(&token, NOW);
        assert_eq!(verified, Ok((caller("a", false), expected)));
    }
}

#[test]
fn what_a_token_lacks_is_said() {
    let exp = NOW + 1;
    for (claims, expected) in [
        (json!({"exp": NOW, "sub": "a"}), Denied::Expired),
        (json!({"exp": -5, "sub": "a"}), Denied::Expired),
        (json!({"sub": "a"}), Denied::Endless),
        (json!({"exp": exp, "sub": "a", "nbf": NOW + 61}), Denied::NotYet),
        (json!({"exp": exp}), Denied::Nobody),
        (json!({"exp": exp, "userId": "", "sub": "a"}), Denied::User(IdError::Length)),
        (json!({"exp": exp, "sub": "system"}), Denied::User(IdError::Reserved)),
        (json!({"exp": exp, "sub": "a\u{202e}b"}), Denied::User(IdError::Unprintable)),
        (json!({"exp": "soon", "sub": "a"}), Denied::Malformed),
        (json!({"exp": exp, "userId": 7}), Denied::Malformed),
    ] {
        assert_eq!(verify_claims(&claims), Err(expected), "{claims}");
    }
}

#[test]
fn what_is_not_signed_by_us_in_our_way_is_refused() {
    let claims = json!({"exp": NOW + 1, "sub": "a"});
    let good = sign(&claims, Algorithm::HS256);
    assert_eq!(verify(&sign(&claims, Algorithm::HS512)), Err(Denied::Algorithm));

    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let admin = sign(&json!({"exp": NOW + 1, "sub": "a", "role": "admin"}), Algorithm::HS256);
    let admin_payload = admin.split('.').nth(1).unwrap();
    assert_eq!(verify(&format!("{header}.{admin_payload}.{signature}")), Err(Denied::Signature));
    assert_eq!(verify(&format!("{header}.{payload}.")), Err(Denied::Signature));

    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    for bad in ["", ".", "..", "a.b.c", "a", header, message, &none, &"x".repeat(100_000)] {
        assert_eq!(verify(bad), Err(Denied::Malformed), "{bad:.20}");
    }
}

#[test]
fn a_minted_token_is_let_in_until_it_ends() {
    let token = secret().mint(&UserId::new("auth0|Zoë 🙂").unwrap(), Role::Admin, Duration::from_mins(1));
    let verifier = Verifier::new(&secret(), JwtAlgorithm::Hs256);
    assert_eq!(verifier.verify(&token, now_seconds()), Ok(caller("auth0|Zoë 🙂", true)));
    assert_eq!(verifier.verify(&token, now_seconds() + 61), Err(Denied::Expired));
    let eternal = secret().mint(&UserId::new("a").unwrap(), Role::User, Duration::MAX);
    assert_eq!(verifier.verify(&eternal, now_seconds()), Ok(caller("a", false)));
}

fn a_link(end: u64) -> Link {
    Link { user: UserId::new("auth0|Zoë 🙂").unwrap(), content_ref: "auth0%7czo/media-1.jpg".to_owned(), end }
}

#[test]
fn a_link_says_who_asked_for_what_until_it_ends() {
    let (links, link) = (Links::new(&secret()), a_link(NOW + 1));
    let text = links.sign(&link);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{text}");
    assert_eq!(links.verify(&text, NOW), Ok(link.clone()));
    // Another server of the same secret, such as this one after its next start.
    assert_eq!(Links::new(&secret()).verify(&text, NOW), Ok(link));
    assert_eq!(links.verify(&text, NOW + 1), Err(Denied::LinkExpired));
    let longest = UserId::new(&"🙂".repeat(128)).unwrap();
    let longest =
        Link { user: longest, content_ref: format!("{}/msg-1.bin", "%f0%9f%99%82".repeat(128)), end: NOW + 1 };
    assert_eq!(links.verify(&links.sign(&longest), NOW), Ok(longest));
}

#[test]
fn a_link_that_was_changed_is_none() {
    let links = Links::new(&secret());
    let good = links.sign(&a_link(NOW + 1));
    let [header, said, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let later = links.sign(&a_link(NOW + 2));
    let later = later.split('.').nth(1).unwrap();
    let of_another_secret = {
        let folder = tempfile::tempdir().unwrap();
        Links::new(&Secret::find_or_create(&settings(folder.path(), "")).unwrap()).sign(&a_link(NOW + 1))
    };
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{said}.");
    let bad = [
        format!("{header}.{later}.{signature}"),
        format!("{header}.{said}."),
        format!("{header}.{said}"),
        good[..good.len() - 1].to_owned(),
        good.to_uppercase(),
        of_another_secret,
        none,
        String::new(),
        "x".repeat(100_000),
    ];
    for bad in bad {
        assert_eq!(links.verify(&bad, NOW), Err(Denied::Link), "{bad:.80}");
    }
}

/// Also where one says everything that the other has to say.
#[test]
fn no_link_is_a_token_and_no_token_a_link() {
    let links = Links::new(&secret());
    let both = json!({"exp": NOW + 1, "userId": "a", "contentRef": "a/media-1.jpg"});
    assert_eq!(verify_claims(&both), Ok(caller("a", false)));
    assert_eq!(links.verify(&sign(&both, Algorithm::HS256), NOW), Err(Denied::Link));
    assert_eq!(verify(&links.sign(&a_link(NOW + 1))), Err(Denied::Signature));
}

#[test]
fn a_secret_is_made_once_and_kept_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), "");
    assert!(Secret::find(&settings).unwrap().is_none());
    let made = Secret::find_or_create(&settings).unwrap();
    assert!(made.as_bytes().len() >= 64);
    assert_eq!(Secret::find_or_create(&settings).unwrap().as_bytes(), made.as_bytes());
    assert_eq!(Secret::find(&settings).unwrap().unwrap().as_bytes(), made.as_bytes());
    let files: Vec<_> = std::fs::read_dir(folder.path().join(".kalamdb")).unwrap().collect();
    assert_eq!(files.len(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = std::fs::metadata(Secret::path(&settings)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
    }
}

#[test]
fn two_folders_have_two_secrets() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let make = |folder: &tempfile::TempDir| Secret::find_or_create(&settings(folder.path(), "")).unwrap();
    assert_ne!(make(&one).as_bytes(), make(&two).as_bytes());
}

#[test]
fn a_kept_secret_that_is_none_is_not_replaced_silently() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), "");
    std::fs::create_dir_all(folder.path().join(".kalamdb")).unwrap();
    std::fs::write(Secret::path(&settings), "").unwrap();
    assert!(matches!(Secret::find_or_create(&settings), Err(Error::Unusable(_))));
}

#[test]
fn a_guessable_secret_guards_nothing_but_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let check = |server: &str| check_configured(&settings(folder.path(), server)).map_err(|error| error.to_string());
    let sample = "jwt_secret = \"your-secret-key\"";
    let short = "jwt_secret = \"0123456789abcdef0123456789abcde\"";
    let good = "jwt_secret = \"0123456789abcdef0123456789abcdef\"";
    // A loopback address too: a proxy in front lets everybody in.
    for host in ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.168.1.2", "db.example.org"] {
        let on_host = |secret: &str| check(&format!("host = \"{host}\"\n{secret}"));
        let told = on_host(sample).unwrap_err();
        assert!(told.contains("the sample from the documentation") && told.contains("openssl rand"), "{told}");
        assert!(on_host(short).unwrap_err().contains("shorter than 32 bytes"));
        assert!(!on_host(short).unwrap_err().contains("0123"));
        assert_eq!(on_host(good), Ok(()));
        assert_eq!(on_host(""), Ok(()), "the one that the server makes is good");
    }
}
