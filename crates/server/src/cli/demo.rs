//! `kalamdb demo`: a small sample to try things on.
//!
//! Invariant: loaded as any file is imported, so running it again changes nothing, and what people did to the
//! sample since is left as it is.

use std::{path::PathBuf, time::Duration};

use indicatif::ProgressBar;
use kalamdb_protocol::UserId;

use super::{
    client::Client,
    connection::{ConnectionArgs, Credentials, Identity},
    error::Error,
    import::{self, Tally},
    text::counted,
};

/// John's two conversations with an assistant and a group of three, in the format of `kalamdb import`.
const SAMPLE: &str = include_str!("demo.ndjson");

/// The user whose conversations the sample holds.
const SAMPLE_USER: &str = "user_john";

/// A day to try things out; longer-lived tokens come from `kalamdb token`.
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// `kalamdb demo`
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Wait this long for a server that is starting
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

/// Loads the sample and says what to do with it.
pub(super) async fn run(args: DemoArgs) -> Result<(), Error> {
    args.connection.anonymous_client()?.wait_until_healthy(Duration::from_secs(args.wait)).await?;
    let client = args.connection.client(None)?;
    let mut total = Tally::default();
    import::load(&client, SAMPLE.as_bytes(), "the sample", &mut total, &ProgressBar::hidden()).await?;
    println!("{}", report(&total));
    match Tokens::of(&args.connection, client.url()).await {
        Some(tokens) => print_tokens(&tokens, client.url()),
        None => println!("On the server's machine, this command also prints tokens and what to try with them."),
    }
    Ok(())
}

/// Tokens for a person, which this server takes, and where its data lies.
struct Tokens {
    user: String,
    admin: String,
    data: PathBuf,
}

impl Tokens {
    /// Mints them, if the local settings are those of the server at `url`.
    async fn of(connection: &ConnectionArgs, url: &str) -> Option<Self> {
        let local = connection.local().ok()?;
        let user = UserId::new(SAMPLE_USER).ok()?;
        let user = local.mint(&Identity { user, admin: false }, TOKEN_TTL).ok()?;
        let admin = local.mint(&Identity::operator(), TOKEN_TTL).ok()?;
        // Another server's secret may lie here; then its tokens are not what anybody should paste.
        let accepted = Client::new(url.to_owned(), Credentials::given(admin.clone())).ok()?;
        accepted.rows("SELECT 1", Vec::new()).await.ok()?;
        Some(Self { user, admin, data: local.data() })
    }
}

fn report(total: &Tally) -> String {
    let what = format!("The sample ({SAMPLE_USER}: two AI conversations and a group of three)");
    if total.written > 0 {
        format!("{what} is loaded: {}.", counted(total.written, "message"))
    } else {
        format!("{what} was there already.")
    }
}

fn print_tokens(tokens: &Tokens, url: &str) {
    let Tokens { user, admin, data } = tokens;
    println!("The data lies in {}.", data.display());
    println!("\nToken of {SAMPLE_USER}, for 24 hours:\n{user}\n\nToken of an admin, for 24 hours:\n{admin}\n");
    println!("Try these; each works as it stands:\n");
    for (title, line) in curl_lines(url, user, admin) {
        println!("# {title}\n{line}\n");
    }
}

/// The founding document's calls and some more, ready for a shell.
fn curl_lines(url: &str, user: &str, admin: &str) -> Vec<(&'static str, String)> {
    let query = |token: &str, sql: &str| {
        let body = serde_json::json!({ "sql": sql }).to_string().replace('\'', "'\\''");
        curl(url, "/api/v1/query", token, &body)
    };
    vec![
        (
            "Send a message (with an id of your own, so once; without msgId the server gives one)",
            query(
                user,
                "INSERT INTO userId.messages \
                 (msgId, conversationId, conversationType, from, timestamp, content) \
                 VALUES (123, 'conv_ai', 'ai', 'user_john', 1699000000, 'Hello AI')",
            ),
        ),
        (
            "Send to a group: everybody in it gets a copy",
            curl(
                url,
                "/api/v1/messages",
                user,
                r#"{"conversationId": "conv_group_123", "conversationType": "group", "content": "See you on Saturday!"}"#,
            ),
        ),
        ("A conversation", query(user, "SELECT * FROM userId.messages WHERE conversationId = 'conv_123' LIMIT 100")),
        (
            "Messages in each conversation",
            query(user, "SELECT conversationId, COUNT(*) FROM userId.messages GROUP BY conversationId"),
        ),
        ("Search", query(user, "SELECT msgId, from, content FROM userId.messages WHERE content LIKE '%search%'")),
        (
            "Delete a message (it can be brought back from deletedMessages)",
            query(user, "DELETE FROM userId.messages WHERE msgId = 123"),
        ),
        (
            "Everybody's messages, for an admin",
            query(admin, "SELECT owner, COUNT(*) AS messages FROM *.messages GROUP BY owner ORDER BY owner"),
        ),
    ]
}

/// `body` is already fit to stand between single quotes.
fn curl(url: &str, path: &str, token: &str, body: &str) -> String {
    format!("curl -X POST {url}{path} \\\n  -H \"Authorization: Bearer {token}\" \\\n  -d '{body}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_can_be_imported() {
        let conversations = import::read_all(SAMPLE).unwrap();
        let sizes: Vec<(&str, usize, usize)> =
            conversations.iter().map(|one| (one.id.as_str(), one.holders().len(), one.turns.len())).collect();
        assert_eq!(sizes, [("conv_old", 1, 6), ("conv_123", 1, 10), ("conv_group_123", 3, 15)]);
        assert!(conversations.iter().all(|one| one.home.as_str() == SAMPLE_USER));
    }

    #[test]
    fn a_shell_reads_the_curl_lines_as_they_are_meant() {
        for (title, line) in curl_lines("http://127.0.0.1:8080", "aaa.bbb.ccc", "ddd.eee.fff") {
            // The shell's own reading, with a command that shows its last argument in the place of curl.
            let script = line.replacen("curl", "show", 1);
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("show() {{ for last; do :; done; printf %s \"$last\"; }}\n{script}")])
                .output()
                .unwrap();
            let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(body.is_object(), "{title}: {body}");
            if let Some(sql) = body.get("sql") {
                assert_eq!(sql.as_str().unwrap().matches('\'').count() % 2, 0, "{title}: {sql}");
            }
        }
    }
}
