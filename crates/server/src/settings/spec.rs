//! The description of a setting: its default, its bounds, and how its text becomes a typed value.
//!
//! Invariant: knows no setting by name; a value that has passed [`Kind::accepts`] is one that the table allows.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
};

use kalamdb_protocol::ConversationType;
use kalamdb_store::Durability;
use toml::Value;

/// A setting, as the table describes it.
#[derive(Debug)]
pub(super) struct Key {
    /// The section it stands in.
    pub section: &'static str,
    /// The name within its section.
    pub name: &'static str,
    /// The explanation: the lines of its doc comment.
    pub doc: &'static [&'static str],
    /// The values that it may have.
    pub spec: Spec,
}

/// A section of the table.
#[derive(Debug)]
pub(super) struct Section {
    /// The section's name.
    pub name: &'static str,
    /// The section's explanation.
    pub doc: &'static [&'static str],
    /// The section's settings.
    pub keys: &'static [Key],
}

/// The default of a setting, and the values that it may have.
#[derive(Debug)]
pub(super) struct Spec {
    initial: Initial,
    kind: Kind,
}

#[derive(Debug)]
enum Initial {
    Number(i64),
    Switch(bool),
    Text(&'static str),
    EmptyList,
    Unset { example: &'static str },
}

#[derive(Debug)]
enum Kind {
    Number { min: i64, max: i64 },
    Switch,
    OneOf(&'static [&'static str]),
    Text(Check),
    Secret,
    List(Check),
}

/// A rule for a text.
#[derive(Debug)]
pub(super) struct Check {
    allowed: &'static str,
    holds: fn(&str) -> bool,
}

pub(super) const fn number(default: i64, min: i64, max: i64) -> Spec {
    Spec { initial: Initial::Number(default), kind: Kind::Number { min, max } }
}

pub(super) const fn switch(default: bool) -> Spec {
    Spec { initial: Initial::Switch(default), kind: Kind::Switch }
}

pub(super) const fn one_of(default: &'static str, names: &'static [&'static str]) -> Spec {
    Spec { initial: Initial::Text(default), kind: Kind::OneOf(names) }
}

pub(super) const fn text(default: &'static str, check: Check) -> Spec {
    Spec { initial: Initial::Text(default), kind: Kind::Text(check) }
}

pub(super) const fn optional_text(example: &'static str, check: Check) -> Spec {
    Spec { initial: Initial::Unset { example }, kind: Kind::Text(check) }
}

pub(super) const fn secret(example: &'static str) -> Spec {
    Spec { initial: Initial::Unset { example }, kind: Kind::Secret }
}

pub(super) const fn list(check: Check) -> Spec {
    Spec { initial: Initial::EmptyList, kind: Kind::List(check) }
}

/// The check of an address to listen at.
pub(super) const HOST: Check = Check {
    allowed: "an IP address or a host name",
    holds: |text| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && text.chars().all(is_name))
    },
};

/// A place on this machine's disks.
pub(super) const FOLDER: Check = Check {
    allowed: "the path of a folder (`s3://` comes with a later version)",
    holds: |text| !text.is_empty() && !text.contains("://") && !text.contains('\0'),
};

/// The check of what a browser sends as `Origin`.
pub(super) const ORIGIN: Check = Check {
    allowed: "\"*\", or scheme, host and port without a path, like \"https://app.example.org\"",
    holds: |text| {
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        text == "*"
            || text
                .split_once("://")
                .is_some_and(|(scheme, host)| is_scheme(scheme) && !host.is_empty() && host.chars().all(is_host))
    },
};

impl Key {
    /// The full name, `section.name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

impl Spec {
    /// The default; none for a setting that is not set.
    pub(super) fn default(&self) -> Option<Value> {
        match self.initial {
            Initial::Number(number) => Some(Value::Integer(number)),
            Initial::Switch(on) => Some(Value::Boolean(on)),
            Initial::Text(text) => Some(Value::String(text.to_owned())),
            Initial::EmptyList => Some(Value::Array(Vec::new())),
            Initial::Unset { .. } => None,
        }
    }

    /// The default, or what the setting could look like if it has none.
    pub(super) fn example(&self) -> Value {
        match self.initial {
            Initial::Unset { example } => Value::String(example.to_owned()),
            _ => self.default().unwrap_or(Value::Array(Vec::new())),
        }
    }

    /// Whether the value is of the right type and within bounds.
    pub(super) fn accepts(&self, value: &Value) -> bool {
        match (&self.kind, value) {
            (Kind::Number { min, max }, Value::Integer(number)) => (min..=max).contains(&number),
            (Kind::Switch, Value::Boolean(_)) => true,
            (Kind::OneOf(names), Value::String(text)) => names.contains(&text.as_str()),
            (Kind::Text(check), Value::String(text)) => (check.holds)(text),
            (Kind::Secret, Value::String(text)) => !text.is_empty(),
            (Kind::List(check), Value::Array(items)) => {
                items.iter().all(|item| item.as_str().is_some_and(|text| (check.holds)(text)))
            }
            _ => false,
        }
    }

    /// The value of an environment variable or a flag, as the type that the setting has; as a text when it cannot be
    /// that, so that [`Self::accepts`] refuses it.
    pub(super) fn read_text(&self, text: &str) -> Value {
        let typed = match self.kind {
            Kind::Number { .. } => text.parse().ok().map(Value::Integer),
            Kind::Switch => text.parse().ok().map(Value::Boolean),
            Kind::List(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
            }
            Kind::OneOf(_) | Kind::Text(_) | Kind::Secret => None,
        };
        typed.unwrap_or_else(|| Value::String(text.to_owned()))
    }

    /// The values at the edges of what is allowed.
    #[cfg(test)]
    pub(super) fn extremes(&self) -> Vec<Value> {
        match self.kind {
            Kind::Number { min, max } => vec![Value::Integer(min), Value::Integer(max)],
            Kind::Switch => vec![Value::Boolean(false), Value::Boolean(true)],
            Kind::OneOf(names) => names.iter().map(|name| Value::String((*name).to_owned())).collect(),
            Kind::Text(_) | Kind::Secret | Kind::List(_) => vec![self.example()],
        }
    }

    /// A value for people: cut when long, and never a secret.
    pub(super) fn show(&self, value: &Value) -> String {
        const MAX_CHARS: usize = 60;
        if matches!(self.kind, Kind::Secret) {
            return "\"(hidden)\"".to_owned();
        }
        let shown = value.to_string();
        match shown.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    /// A value in full, as TOML; a secret is hidden.
    pub(super) fn write(&self, value: &Value) -> String {
        if matches!(self.kind, Kind::Secret) { self.show(value) } else { value.to_string() }
    }
}

/// The allowed values, to follow "must be".
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
            Kind::Switch => f.write_str("true or false"),
            Kind::OneOf(names) => {
                for (index, name) in names.iter().enumerate() {
                    let before = match index {
                        0 => "",
                        _ if index + 1 == names.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{before}\"{name}\"")?;
                }
                Ok(())
            }
            Kind::Text(check) => f.write_str(check.allowed),
            Kind::Secret => f.write_str("a text that is not empty"),
            Kind::List(check) => write!(f, "a list, each item {}", check.allowed),
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself: for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('…')
    }
}

/// A type that settings have. `None` means that the value does not fit the type after all.
pub(super) trait Setting: Sized {
    fn read(value: Option<&Value>) -> Option<Self>;
}

/// A setting that is one of a few names.
pub(super) trait Choice {
    const NAMES: &'static [&'static str];
}

macro_rules! number_settings {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            fn read(value: Option<&Value>) -> Option<Self> {
                value?.as_integer()?.try_into().ok()
            }
        }
    )+};
}
number_settings!(u16, u32, i32, u64, usize);

macro_rules! choices {
    ($($type:ty { $($text:literal => $variant:ident),+ })+) => {$(
        impl Choice for $type {
            const NAMES: &'static [&'static str] = &[$($text),+];
        }
        impl Setting for $type {
            fn read(value: Option<&Value>) -> Option<Self> {
                match value?.as_str()? { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}
choices! {
    Durability { "sync" => Sync, "os" => Os }
    ConversationType { "ai" => Ai, "group" => Group }
    super::JwtAlgorithm { "HS256" => Hs256 }
    super::MetricsAccess { "open" => Open, "admin" => Admin, "off" => Off }
    super::LogLevel { "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace }
    super::LogFormat { "text" => Text, "json" => Json }
}

impl Setting for bool {
    fn read(value: Option<&Value>) -> Option<Self> {
        value?.as_bool()
    }
}

impl Setting for String {
    fn read(value: Option<&Value>) -> Option<Self> {
        value?.as_str().map(str::to_owned)
    }
}

impl Setting for PathBuf {
    fn read(value: Option<&Value>) -> Option<Self> {
        value?.as_str().map(Self::from)
    }
}

impl Setting for Vec<String> {
    fn read(value: Option<&Value>) -> Option<Self> {
        value?.as_array()?.iter().map(|item| String::read(Some(item))).collect()
    }
}

impl Setting for Option<PathBuf> {
    fn read(value: Option<&Value>) -> Option<Self> {
        Some(value.and_then(Value::as_str).map(PathBuf::from))
    }
}

impl Setting for Option<Hidden> {
    fn read(value: Option<&Value>) -> Option<Self> {
        Some(value.and_then(Value::as_str).map(|text| Hidden(text.to_owned())))
    }
}
