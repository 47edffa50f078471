//! The end of a process that cannot be sure of its state any more.
//!
//! Invariant: nothing limps. What is wrong is in the log before the process ends, and the end is at once: nothing else is
//! written after it, so that the next start finds what a crash leaves, which is the state that it is tested to recover.

/// Ends the process, saying why.
pub(crate) fn end(why: &str) -> ! {
    tracing::error!(why, "the server ends, because it cannot go on safely; start it again, and it recovers");
    std::process::abort();
}
