//! The tokens of a statement: the column `from`, the schema `*`, the operator `?`, and names without regard to case are
//! settled here, between the tokenizer and the parser.
//!
//! Invariant: tokens change, positions never do, and the text is never touched: an error points at what the client
//! wrote. What is no name keeps its meaning: `SUBSTRING(x FROM 2)` is not a column.

use std::collections::{HashMap, HashSet};

use datafusion::sql::sqlparser::{
    ast::Ident,
    keywords::Keyword,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word},
};

use super::{
    dialect::KalamDialect,
    names::canonical,
    position::{Position, begins_trim, keyword},
    syntax::syntax_error,
};
use crate::Result;

/// The tokens of a statement, without whitespace and comments.
pub(super) fn read(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let mut tokens = Tokenizer::new(&KalamDialect::new(0), sql)
        .tokenize_with_location()
        .map_err(|error| syntax_error(error.location, &error.message))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    Ok(tokens)
}

/// Settles `*.messages`, the column `from`, the operator `?` and the spelling of names.
pub(super) fn rewrite(tokens: &mut Vec<TokenWithSpan>) -> Spellings {
    quote_star_schemas(tokens);
    settle_operands(tokens);
    spell_trims_out(tokens);
    mark_listed_queries(tokens);
    respell(tokens)
}

fn quoted(name: &str) -> Token {
    Token::Word(Word { value: name.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword })
}

/// `*.messages`: a star before a period can only be the schema of all users.
fn quote_star_schemas(tokens: &mut [TokenWithSpan]) {
    for at in 2..tokens.len() {
        if let [star, period, word] = &mut tokens[at - 2..=at]
            && star.token == Token::Mul
            && period.token == Token::Period
            && matches!(word.token, Token::Word(_))
        {
            star.token = quoted("*");
        }
    }
}

/// `from` where an operand is due is the column; `metadata ? 'key'`, where none is, asks for a key and is no placeholder.
fn settle_operands(tokens: &mut [TokenWithSpan]) {
    let mut position = Position::default();
    for at in 0..tokens.len() {
        let (before, rest) = tokens.split_at_mut(at);
        let Some((here, next)) = rest.split_first_mut() else { break };
        if keyword(&here.token) == Keyword::FROM && position.is_from_column(before, next) {
            here.token = quoted("from");
        } else if matches!(&here.token, Token::Placeholder(sign) if sign == "?")
            && !position.is_name()
            && before.last().is_some_and(|last| !matches!(keyword(&last.token), Keyword::LIMIT | Keyword::OFFSET))
        {
            here.token = Token::Question;
        }
        position.pass(&here.token);
    }
}

/// `TRIM(BOTH FROM x)` and `TRIM(FROM x)` trim spaces; the parser wants to be told where and what to trim.
fn spell_trims_out(tokens: &mut Vec<TokenWithSpan>) {
    let is_short = |pair: &[TokenWithSpan]| {
        matches!(keyword(&pair[0].token), Keyword::BOTH | Keyword::LEADING | Keyword::TRAILING)
            && keyword(&pair[1].token) == Keyword::FROM
    };
    let is_bare = |three: &[TokenWithSpan]| begins_trim(&three[..2]) && keyword(&three[2].token) == Keyword::FROM;
    let bare: Vec<usize> =
        tokens.windows(3).enumerate().filter(|(_, three)| is_bare(three)).map(|(at, _)| at + 2).collect();
    for (inserted, at) in bare.into_iter().enumerate() {
        let both = Word { value: "BOTH".to_owned(), quote_style: None, keyword: Keyword::BOTH };
        let span = tokens[at + inserted].span;
        tokens.insert(at + inserted, TokenWithSpan::new(Token::Word(both), span));
    }
    let froms: Vec<usize> =
        tokens.windows(2).enumerate().filter(|(_, pair)| is_short(pair)).map(|(at, _)| at + 1).collect();
    if froms.is_empty() {
        return;
    }
    let mut due = froms.into_iter().peekable();
    let mut whole = Vec::with_capacity(tokens.len() + due.len());
    for (at, token) in std::mem::take(tokens).into_iter().enumerate() {
        if due.next_if_eq(&at).is_some() {
            whole.push(TokenWithSpan::new(Token::SingleQuotedString(" ".to_owned()), token.span));
        }
        whole.push(token);
    }
    *tokens = whole;
}

/// `x IN ((SELECT …), 1)`: the parser takes the first parentheses for those of `IN (SELECT …)`, unless they are an
/// argument: `x IN (coalesce((SELECT …)), 1)`.
fn mark_listed_queries(tokens: &mut Vec<TokenWithSpan>) {
    let is_list = |four: &[TokenWithSpan]| {
        keyword(&four[0].token) == Keyword::IN
            && four[1..3].iter().all(|token| token.token == Token::LParen)
            && matches!(keyword(&four[3].token), Keyword::SELECT | Keyword::WITH)
    };
    let queries: HashSet<usize> =
        tokens.windows(4).enumerate().filter(|(_, four)| is_list(four)).map(|(at, _)| at + 2).collect();
    if queries.is_empty() {
        return;
    }
    let ends = listed_ends(tokens, &queries);
    let begins: HashSet<usize> = ends.values().copied().collect();
    let mut whole = Vec::with_capacity(tokens.len() + 3 * ends.len());
    let coalesce = Word { value: "coalesce".to_owned(), quote_style: None, keyword: Keyword::NoKeyword };
    for (at, token) in std::mem::take(tokens).into_iter().enumerate() {
        let span = token.span;
        if begins.contains(&at) {
            whole.push(TokenWithSpan::new(Token::Word(coalesce.clone()), span));
            whole.push(TokenWithSpan::new(Token::LParen, span));
        }
        whole.push(token);
        if ends.contains_key(&at) {
            whole.push(TokenWithSpan::new(Token::RParen, span));
        }
    }
    *tokens = whole;
}

/// Where those parentheses close before a comma, each with where it opens.
fn listed_ends(tokens: &[TokenWithSpan], queries: &HashSet<usize>) -> HashMap<usize, usize> {
    let (mut open, mut ends) = (Vec::new(), HashMap::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => open.push(at),
            Token::RParen => {
                let is_listed = tokens.get(at + 1).is_some_and(|next| next.token == Token::Comma);
                if let Some(begin) = open.pop().filter(|begin| is_listed && queries.contains(begin)) {
                    ends.insert(at, begin);
                }
            }
            _ => {}
        }
    }
    ends
}

/// The spellings of names that were respelt for the parser: user ids compare exactly.
#[derive(Debug, Default)]
pub(super) struct Spellings(HashMap<Location, String>);

impl Spellings {
    /// A name as the client wrote it.
    pub(super) fn original<'a>(&'a self, ident: &'a Ident) -> &'a str {
        self.0.get(&ident.span.start).map_or(&ident.value, String::as_str)
    }
}

/// Gives each name one spelling: a known table or column its canonical one, any other that is not quoted the one
/// it has where it is defined (after `AS`), else where it stands first.
fn respell(tokens: &mut [TokenWithSpan]) -> Spellings {
    let defined = Defined::find(tokens);
    let mut first: HashMap<String, String> = HashMap::new();
    let mut spellings = Spellings::default();
    for at in 0..tokens.len() {
        let before_period = tokens.get(at + 1).is_some_and(|next| next.token == Token::Period);
        let TokenWithSpan { token: Token::Word(word), span } = &mut tokens[at] else { continue };
        let spelling = match canonical(&word.value) {
            // A quoted name that is defined here means that definition: `AS "Rows" … ORDER BY "Rows"`.
            Some(_) if word.quote_style.is_some() && defined.quoted.contains(&word.value) => continue,
            Some(known) => known,
            None if word.quote_style.is_some() => continue,
            None => {
                let key = word.value.to_lowercase();
                match defined.spelling.get(&key) {
                    Some(defined) => defined,
                    None => first.entry(key).or_insert_with(|| word.value.clone()),
                }
            }
        };
        if word.value != spelling {
            let original = std::mem::replace(&mut word.value, spelling.to_owned());
            // Only what stands before a period can be a user's id.
            if before_period {
                spellings.0.insert(span.start, original);
            }
        }
    }
    spellings
}

/// The names that a statement defines with `AS`.
#[derive(Default)]
struct Defined {
    /// Each name's spelling, by its lower case.
    spelling: HashMap<String, String>,
    /// The names that are quoted there.
    quoted: HashSet<String>,
}

impl Defined {
    fn find(tokens: &[TokenWithSpan]) -> Self {
        let mut defined = Self::default();
        for pair in tokens.windows(2) {
            if let (Keyword::AS, Token::Word(name)) = (keyword(&pair[0].token), &pair[1].token) {
                defined.spelling.entry(name.value.to_lowercase()).or_insert_with(|| name.value.clone());
                if name.quote_style.is_some() {
                    defined.quoted.insert(name.value.clone());
                }
            }
        }
        defined
    }
}

#[cfg(test)]
mod tests;
