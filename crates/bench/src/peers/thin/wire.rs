//! PostgreSQL's own protocol, as far as prepared statements over a local socket need it.
//!
//! Invariant: one round trip for each statement, which was planned when the connection was opened. Parameters and values
//! go as text.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{Mutex, Semaphore},
};

use crate::Failure;

/// The user and the database.
pub(crate) const NAME: &str = "bench";

/// Version 3.0.
const PROTOCOL: i32 = 196_608;

/// The longest message that is read: a page of long texts is far shorter.
const LONGEST_BYTES: usize = 64 << 20;

/// The types of columns whose values are JSON as they are: int8, int4, int2.
const NUMBERS: [i32; 3] = [20, 23, 21];

/// Connections, of which a statement takes one that is free.
pub(crate) struct Pool {
    free: Mutex<Vec<Connection>>,
    places: Semaphore,
}

struct Connection {
    stream: BufReader<UnixStream>,
    /// For each statement, which of its columns are numbers.
    numbers: Vec<Vec<bool>>,
    message: Vec<u8>,
}

impl Pool {
    /// Opens them all, with all statements prepared.
    pub(crate) async fn open(socket: &Path, connections: usize, statements: &[&str]) -> Result<Self, Failure> {
        let mut free = Vec::with_capacity(connections);
        for _ in 0..connections {
            free.push(Connection::open(socket, statements).await?);
        }
        Ok(Self { free: Mutex::new(free), places: Semaphore::new(connections) })
    }

    /// The rows that a statement answers, as JSON: `[1,"ann"],[2,"bob"]`.
    pub(crate) async fn rows(&self, statement: usize, parameters: &[&str]) -> Result<Vec<u8>, Failure> {
        let _place = self.places.acquire().await.map_err(|error| Failure(error.to_string()))?;
        let connection = self.free.lock().await.pop();
        let mut connection = connection.ok_or_else(|| Failure::new("there is no connection"))?;
        let rows = connection.rows(statement, parameters).await;
        self.free.lock().await.push(connection);
        rows
    }
}

impl Connection {
    async fn open(socket: &Path, statements: &[&str]) -> Result<Self, Failure> {
        let stream = BufReader::new(UnixStream::connect(socket).await?);
        let mut connection = Self { stream, numbers: Vec::new(), message: Vec::new() };
        let mut start = PROTOCOL.to_be_bytes().to_vec();
        start.extend(format!("user\0{NAME}\0database\0{NAME}\0\0").into_bytes());
        let mut out = length(start.len());
        out.extend(start);
        connection.stream.get_mut().write_all(&out).await?;
        connection.until_ready(|_, _| ()).await?;
        for (number, sql) in statements.iter().enumerate() {
            let mut out = Vec::new();
            // Parse: name, text, no types given. Describe the statement. Sync.
            message(&mut out, b'P', format!("s{number}\0{sql}\0\0\0").as_bytes());
            message(&mut out, b'D', format!("Ss{number}\0").as_bytes());
            message(&mut out, b'S', &[]);
            connection.stream.get_mut().write_all(&out).await?;
            let mut numbers = Vec::new();
            connection
                .until_ready(|kind, body| numbers.extend((kind == b'T').then(|| columns(body)).flatten()))
                .await?;
            connection.numbers.push(numbers.concat());
        }
        Ok(connection)
    }

    async fn rows(&mut self, statement: usize, parameters: &[&str]) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::with_capacity(256);
        message(&mut out, b'B', &bind(statement, parameters));
        // Execute the unnamed portal, without a limit.
        message(&mut out, b'E', &[0; 5]);
        message(&mut out, b'S', &[]);
        self.stream.get_mut().write_all(&out).await?;
        let numbers = self.numbers[statement].clone();
        let (mut rows, mut whole) = (Vec::new(), true);
        self.until_ready(|kind, body| whole &= kind != b'D' || row(body, &numbers, &mut rows).is_some()).await?;
        if whole { Ok(rows) } else { Err(Failure::new("a row of PostgreSQL cannot be read")) }
    }

    /// Reads messages until it is ready for the next statement; an error in them is the answer.
    async fn until_ready(&mut self, mut look: impl FnMut(u8, &[u8])) -> Result<(), Failure> {
        let mut error = None;
        loop {
            let kind = self.stream.read_u8().await?;
            let length = usize::try_from(self.stream.read_i32().await?).unwrap_or_default();
            if !(4..=LONGEST_BYTES).contains(&length) {
                return Err(Failure::new("PostgreSQL's answer cannot be read"));
            }
            self.message.resize(length - 4, 0);
            self.stream.read_exact(&mut self.message).await?;
            match kind {
                b'E' => error = Some(Failure(String::from_utf8_lossy(&self.message).replace('\0', " "))),
                b'R' if self.message != [0; 4] => return Err(Failure::new("PostgreSQL wants a password")),
                b'Z' => return error.map_or(Ok(()), Err),
                _ => look(kind, &self.message),
            }
        }
    }
}

/// A message: its kind, its length, its body.
fn message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend(length(body.len()));
    out.extend(body);
}

/// A length counts itself.
fn length(bytes: usize) -> Vec<u8> {
    i32::try_from(bytes + 4).unwrap_or(i32::MAX).to_be_bytes().to_vec()
}

/// Bind: the unnamed portal, the statement, every parameter as text, every value as text.
fn bind(statement: usize, parameters: &[&str]) -> Vec<u8> {
    let mut body = format!("\0s{statement}\0\0\0").into_bytes();
    body.extend(u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
    for parameter in parameters {
        body.extend(i32::try_from(parameter.len()).unwrap_or(i32::MAX).to_be_bytes());
        body.extend(parameter.as_bytes());
    }
    body.extend([0, 0]);
    body
}

/// Takes so many bytes of the front.
fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

/// Of a description of rows, which columns are numbers: name, table (4), column (2), type (4), size, modifier, format (8).
fn columns(mut rest: &[u8]) -> Option<Vec<bool>> {
    let count = u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
    let mut column = || {
        let end = rest.iter().position(|byte| *byte == 0)?;
        take(&mut rest, end + 1 + 6)?;
        let kind = number(&mut rest)?;
        take(&mut rest, 8)?;
        Some(NUMBERS.contains(&kind))
    };
    (0..count).map(|_| column()).collect()
}

/// Adds a row to the others, as JSON. It comes as a length for each column, -1 for NULL, and the text.
fn row(mut rest: &[u8], numbers: &[bool], rows: &mut Vec<u8>) -> Option<()> {
    take(&mut rest, 2)?;
    rows.extend(if rows.is_empty() { &b"["[..] } else { b",[" });
    for (place, is_number) in numbers.iter().enumerate() {
        if place > 0 {
            rows.push(b',');
        }
        match usize::try_from(number(&mut rest)?) {
            Err(_) => rows.extend(b"null"),
            Ok(length) if *is_number => rows.extend(take(&mut rest, length)?),
            Ok(length) => {
                let text = std::str::from_utf8(take(&mut rest, length)?).ok()?;
                serde_json::to_writer(&mut *rows, text).ok()?;
            }
        }
    }
    rows.push(b']');
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_by_the_types_of_their_columns() {
        let mut description = vec![0, 2];
        for (name, kind) in [("id", 20_i32), ("text", 25)] {
            description.extend([name.as_bytes(), &[0], &[0; 6], &kind.to_be_bytes(), &[0; 8]].concat());
        }
        assert_eq!(columns(&description), Some(vec![true, false]));
        let mut data = vec![0, 2, 0, 0, 0, 2];
        data.extend(b"42");
        data.extend([0, 0, 0, 2]);
        data.extend(b"42");
        let mut rows = Vec::new();
        row(&data, &[true, false], &mut rows).unwrap();
        let null = [&[0, 1][..], &(-1_i32).to_be_bytes()].concat();
        row(&null, &[false], &mut rows).unwrap();
        assert_eq!(String::from_utf8(rows).unwrap(), "[42,\"42\"],[null]");
        assert_eq!(row(&data[..9], &[true, false], &mut Vec::new()), None, "cut off");
    }

    #[test]
    fn a_bind_counts_its_parameters() {
        assert_eq!(bind(3, &["ab"]), b"\0s3\0\0\0\0\x01\0\0\0\x02ab\0\0");
    }
}
