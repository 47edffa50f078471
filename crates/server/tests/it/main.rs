//! The database as its users meet it: every test starts the real `kalamdb` binary and talks to it over HTTP or the
//! command line.
//!
//! Invariant: no test reaches into the server; what is checked here is what a client, an operator or another
//! program that opens the files can see.

mod answers;
mod bodies;
mod cli;
mod cold_files;
mod content;
mod crash;
mod documents;
mod formats;
mod founding;
mod full_disk;
mod harness;
mod import;
mod limits;
mod links;
mod live;
mod machine;
mod media;
mod model;
mod old_folders;
mod openapi;
mod process;
mod races;
mod rules;
mod scope;
mod sql;
mod tokens;
mod wire;
