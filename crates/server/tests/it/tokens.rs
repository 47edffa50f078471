//! Who is let in: the tokens of the contract, and those that only look like them.
//!
//! Invariant: the algorithm, the user and the role come from what is signed, never from what a client claims.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kalamdb_protocol::ErrorCode;
use serde_json::{Value, json};

use crate::harness::{Server, eventually};

const SECRET: &str = "a secret of at least thirty-two bytes, for tests";

fn server() -> Server {
    Server::with(&[("server.jwt_secret", SECRET)])
}

/// A time in seconds, as `exp` has it.
fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(now.as_secs()).expect("seconds fit") + seconds
}

#[allow(clippy::needless_pass_by_value)] // So that a call reads `signed(json!({…}))`.
fn signed(claims: Value) -> String {
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// Who the server takes the bearer for: the default sender of a message that they send.
fn user_of(server: &Server, token: &str) -> String {
    let client = server.client_with_token(Some(token));
    client.say("c", "who am I?");
    client.texts("SELECT from FROM userId.messages LIMIT 1").remove(0)
}

#[test]
fn the_user_is_the_claim_user_id_else_sub() {
    let server = server();
    let exp = seconds_from_now(3600);
    assert_eq!(user_of(&server, &signed(json!({ "userId": "amy", "sub": "bob", "exp": exp }))), "amy");
    assert_eq!(user_of(&server, &signed(json!({ "sub": "bob", "exp": exp }))), "bob");
}

#[test]
fn the_command_line_mints_what_the_server_takes() {
    let server = server();
    assert_eq!(user_of(&server, &server.token("auth0|123", false)), "auth0|123");
}

/// So that an operator finds out who tries tokens.
#[test]
fn a_refused_token_is_logged_with_the_address_it_came_from() {
    let server = server();
    let stranger = server.client_with_token(Some("no token"));
    assert_eq!(stranger.query("SELECT 1").expect_err("it is refused").code(), Some(ErrorCode::Unauthorized));
    let is_told = |line: &str| line.contains("status=401") && line.contains("client=127.0.0.1");
    eventually("the log says who it was", || server.log_text().lines().any(is_told));
}

#[test]
fn the_role_is_user_unless_the_signed_claim_says_admin() {
    let server = server();
    let exp = seconds_from_now(3600);
    for (claims, admin) in [
        (json!({ "sub": "amy", "exp": exp }), false),
        (json!({ "sub": "amy", "exp": exp, "role": "user" }), false),
        (json!({ "sub": "amy", "exp": exp, "role": "Admin" }), false),
        (json!({ "sub": "amy", "exp": exp, "role": ["admin"] }), false),
        (json!({ "sub": "amy", "exp": exp, "admin": true }), false),
        (json!({ "sub": "admin", "exp": exp }), false),
        (json!({ "sub": "amy", "exp": exp, "role": "admin" }), true),
    ] {
        let client = server.client_with_token(Some(&signed(claims.clone())));
        assert_eq!(client.query("SELECT COUNT(*) FROM *.messages").is_ok(), admin, "{claims}");
    }
}

#[test]
fn what_is_not_a_valid_token_is_unauthorized() {
    let server = server();
    let exp = seconds_from_now(3600);
    let claims = json!({ "sub": "amy", "exp": exp, "role": "admin" });
    let key = |secret: &str| EncodingKey::from_secret(secret.as_bytes());
    let good = signed(claims.clone());
    let (header_and_claims, signature) = good.rsplit_once('.').expect("a signature");
    // {"alg":"none","typ":"JWT"}
    let unsigned_header = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let payload = header_and_claims.split_once('.').expect("a payload").1;
    let mut tampered = signature.to_owned();
    tampered.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
    let bad = [
        ("nothing of the kind", "garbage".to_owned()),
        ("an empty one", String::new()),
        (
            "another secret",
            encode(&Header::new(Algorithm::HS256), &claims, &key("another secret of thirty-two bytes!")).unwrap(),
        ),
        ("another algorithm", encode(&Header::new(Algorithm::HS512), &claims, &key(SECRET)).unwrap()),
        ("no algorithm", format!("{unsigned_header}.{payload}.")),
        ("no algorithm, with the signature", format!("{unsigned_header}.{payload}.{signature}")),
        ("a changed signature", format!("{header_and_claims}.{tampered}")),
        ("no signature", format!("{header_and_claims}.")),
        ("expired", signed(json!({ "sub": "amy", "exp": seconds_from_now(-3600) }))),
        ("without exp", signed(json!({ "sub": "amy" }))),
        ("not valid yet", signed(json!({ "sub": "amy", "exp": exp, "nbf": seconds_from_now(1800) }))),
        ("without a user", signed(json!({ "exp": exp }))),
        ("an empty user", signed(json!({ "sub": "", "exp": exp }))),
        ("a reserved user", signed(json!({ "sub": "system", "exp": exp }))),
        ("a user that is a placeholder", signed(json!({ "sub": "userId", "exp": exp }))),
        ("a user that is everybody", signed(json!({ "sub": "*", "exp": exp }))),
        ("a user with a control character", signed(json!({ "sub": "a\u{0}b", "exp": exp }))),
        ("a user that is a number", signed(json!({ "sub": 7, "exp": exp }))),
    ];
    for (what, token) in bad {
        let refused = server.client_with_token(Some(&token)).query("SELECT 1").expect_err(what);
        assert_eq!(refused.code(), Some(ErrorCode::Unauthorized), "{what}: {refused}");
    }
    assert!(server.client_with_token(Some(&good)).query("SELECT 1").is_ok());
}

#[test]
fn health_needs_no_token() {
    let server = server();
    let nobody = server.client_with_token(None);
    let answer = nobody.request(reqwest::Method::GET, "/api/v1/health", &[], None).expect("an answer");
    assert_eq!(answer.status, 200);
}

#[test]
fn the_secret_is_kept_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut server = Server::start();
    let token = server.token("amy", false);
    let state = server.data().join(".kalamdb");
    let secrets: Vec<_> = std::fs::read_dir(&state)
        .expect("the server's state")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().contains("secret")))
        .collect();
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    let mode = std::fs::metadata(&secrets[0]).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.restart();
    assert!(server.client_with_token(Some(&token)).query("SELECT 1").is_ok(), "the secret outlives a restart");
}

/// We differ from the founding document here: its sample secret must never guard a server that others can reach, and a
/// proxy reaches one that listens on loopback.
#[test]
fn a_weak_secret_is_refused_at_start() {
    let server = Server::start();
    let secrets = ["your-secret-key", "short", "0123456789012345678901234567890"];
    for (secret, host) in secrets.into_iter().flat_map(|secret| [(secret, "0.0.0.0"), (secret, "127.0.0.1")]) {
        let mut command = server.command(&["serve"]);
        command.env("KALAMDB_SERVER__HOST", host).env("KALAMDB_SERVER__PORT", "0");
        command.env("KALAMDB_SERVER__JWT_SECRET", secret);
        let folder = tempfile::tempdir().expect("a folder");
        command.arg("--data").arg(folder.path());
        let output = crate::harness::bounded_output(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it starts with {secret:?}");
        assert!(said.contains("jwt_secret"), "{said}");
        assert!(secret.len() < 10 || !said.contains(secret), "the secret is in the message: {said}");
    }
}
