//! What the `caplane` command is made of, as a library, so that end-to-end
//! tests start the same fabric and issue the same certificates.
//!
//! | module | what it is for |
//! |---|---|
//! | [`pki`] | a development certification authority |
//! | [`api`] | the northbound API, typed |
//! | [`audit`] | whether an audit log is whole |
//! | [`fabric`] | a controller and routers as child processes |
//! | [`arguments`], [`commands`] | the command line, and what each command does |
//! | [`manifest`] | what should be, as a file, and the least updates that make it so |
//! | [`settings`] | where the fabric is and who asks |
//! | [`output`], [`failure`] | results and errors, for people and for programs |
//! | [`up`] | `caplane up` |

pub mod api;
pub mod arguments;
pub mod audit;
pub mod commands;
pub mod fabric;
pub mod failure;
pub mod manifest;
pub mod output;
pub mod pki;
pub mod settings;
pub mod up;
