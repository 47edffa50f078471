//! What the tests share: the real server as a process, and a client that speaks its contract.
//!
//! Invariant: every wait is for an event and has a bound, and nothing here knows what the right answer is.

mod browser;
mod client;
mod dice;
mod live;
mod server;

pub use browser::Browser;
pub use client::{Answer, BOUNDARY, Client, Failure, assert_consistent, by_name, form, message};
pub use dice::{Dice, rounds};
pub use live::{Closed, Event, Events, Live};
pub use server::{Server, bounded_output, eventually};
